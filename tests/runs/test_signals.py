"""Ctrl-C and SIGTERM to a real trainer: what is at hand is finished and saved, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.training.signals import ECHO_SECONDS
from tests.runs.harness import REPOSITORY, SmallRun, draw, draw_set, encoded, same

MANY = 100_000
IMAGES = 100
PATIENCE_SECONDS = 60
PROMPTLY_SECONDS = 5


def new_run(folder: Path, pipeline: Path) -> SmallRun:
    run = SmallRun(folder, pipeline, settings={"torch_num_threads": 1, "lora_dropout": 0.1})
    draw_set(run.output / "datasets" / "colors")
    return run


def wait_until(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Return once `what` is true; fails where the process ends first, or it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)


def through_train_sh(run: SmallRun, repository: Path, *words: str, processes: int = 1) -> subprocess.Popen[str]:
    """The run as a person starts it, in a copy of the repository that has an env file."""
    (repository / "config").mkdir(parents=True)
    for name in ("train.sh", "train.py", "helpers"):
        (repository / name).symlink_to(REPOSITORY / name)
    (repository / "config" / "config.env").write_text(
        f'MODEL_NAME="{run.pipeline}"\nMAX_NUM_STEPS=1\nTRAINING_NUM_PROCESSES={processes}\n'
    )
    return subprocess.Popen(
        ["bash", repository / "train.sh", *run.arguments(max_train_steps=MANY), *words],
        env={**os.environ, "VENV_PATH": sys.prefix, "XDG_CACHE_HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "status", "as_a_person"), [(signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)]
)
def test_a_signal_lets_the_step_end_saves_it_and_the_run_goes_on_from_there(
    number: signal.Signals, status: int, as_a_person: bool, tmp_path: Path, tiny_pipeline: Path
) -> None:
    """Whatever the process is at when the signal comes."""
    stopped, straight = (new_run(tmp_path / name, tiny_pipeline) for name in ("stopped", "straight"))
    if as_a_person:
        process = through_train_sh(stopped, tmp_path / "repository")
    else:
        process = stopped.process(max_train_steps=MANY)
    wait_until(lambda: 2 in stopped.saved_steps(), process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == status, output
    assert "Stopping after this step is finished and saved" in output
    assert "Traceback" not in output
    last = stopped.saved_steps()[-1]
    assert f"stopped after step {last}" in output
    assert not (stopped.output / "pytorch_lora_weights.safetensors").exists()

    assert stopped.start(max_train_steps=last + 1) == 0
    assert straight.start(max_train_steps=last + 1) == 0
    assert same(stopped.weights(), straight.weights())


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, tiny_pipeline: Path) -> None:
    """Amid a step of several minutes."""
    run = new_run(tmp_path, tiny_pipeline)
    process = run.process(gradient_accumulation_steps=10_000)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("training:") for line in lines)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert any("Ctrl-C again exits without saving" in line for line in lines)
    time.sleep(ECHO_SECONDS + 0.1)
    assert process.poll() is None
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert time.monotonic() - asked < PROMPTLY_SECONDS
    assert process.returncode == 130
    assert run.saved_steps() == []


def test_ctrl_c_while_caching_leaves_promptly_and_keeps_what_was_encoded(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SmallRun(tmp_path, tiny_pipeline, settings={"torch_num_threads": 1, "vae_batch_size": 1})
    for number in range(IMAGES):
        image = run.output / "datasets" / "colors" / f"{number}.png"
        draw(image, color=(number, 90, 200), size=(256, 256), seed=number)
    process = run.process(resolution=256)
    cache = run.output / "cache" / "vae"
    wait_until(lambda: len(list(cache.glob("shard-*"))) >= 3, process)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert time.monotonic() - asked < PROMPTLY_SECONDS
    assert process.returncode == 130, output
    assert "Traceback" not in output

    kept = sum(len(load_file(shard)) for shard in cache.glob("shard-*"))
    assert 6 <= kept < IMAGES
    assert run.start(resolution=256, cache_only=True) == 0
    assert encoded(capsys.readouterr().out)["colors"] == IMAGES - kept
