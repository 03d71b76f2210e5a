"""Checkpoints are whole or not there, are found whatever lies beside them, and are kept as many as asked."""

import dataclasses
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from helpers.errors import CheckpointError
from helpers.models.adapters.lora import LORA_FILE
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import (
    complete_checkpoints,
    find_checkpoint,
    restore_optimizer_state,
    restore_trained,
)
from helpers.training.checkpoint.manifest import read_manifest
from helpers.training.optim.optimizers import OptimizerOptions, make_optimizer
from helpers.training.signals import StopSignal
from tests.unit.training.small_run import Events, SmallDenoiser, SmallRun, small_trained

STORED = Path(__file__).parents[2] / "runs" / "stored_run"


def saved_run(output: Path, *, steps: int = 6, keep: int = 9) -> Events:
    """Checkpoints 2, 4 … of a run in `output`."""
    events = Events()
    SmallRun(output=output, steps=steps, keep=keep).run(StopSignal(), events)
    return events


def found_name(output: Path, resume: str = "latest", events: Events | None = None) -> str | None:
    found = find_checkpoint(output, resume, reporter=Reporter([] if events is None else [events]))
    return found.folder.name if found else None


def killed_run(output: Path, *, at_save: int) -> None:
    command = [sys.executable, "-m", "tests.unit.training.small_run", f"--output={output}", f"--kill_at_save={at_save}"]
    assert subprocess.run(command, timeout=120, capture_output=True).returncode == -signal.SIGKILL


def test_the_latest_checkpoint_is_found_among_odd_names(tmp_path: Path) -> None:
    saved_run(tmp_path)
    for odd in ("", "x", "1e3", "٣", "99 (copy)", "007"):
        (tmp_path / f"checkpoint-{odd}").mkdir()
    (tmp_path / "checkpoint-500").write_text("a file")
    (tmp_path / ("checkpoint-" + "9" * 200)).mkdir()
    assert found_name(tmp_path) == "checkpoint-6"


def test_none_and_an_empty_folder_start_again(tmp_path: Path) -> None:
    assert found_name(tmp_path / "not there") is None
    assert found_name(tmp_path) is None
    saved_run(tmp_path, steps=2)
    events = Events()
    assert found_name(tmp_path, "none", events) is None
    assert any("checkpoint-2" in event.text for event in events if isinstance(event, Notice))


def test_a_named_one_is_found_by_name_and_path(tmp_path: Path) -> None:
    saved_run(tmp_path)
    assert found_name(tmp_path, "checkpoint-4") == "checkpoint-4"
    assert found_name(tmp_path / "elsewhere", str(tmp_path / "checkpoint-4")) == "checkpoint-4"


def test_a_named_one_that_is_not_there_is_an_error_that_lists_the_others(tmp_path: Path) -> None:
    saved_run(tmp_path)
    with pytest.raises(CheckpointError, match="checkpoint-2, checkpoint-4, checkpoint-6"):
        found_name(tmp_path, "checkpoint-5")


@pytest.mark.parametrize("harm", ["no manifest", "cut manifest", "cut weights", "no optimizer"])
def test_an_incomplete_one_is_told_of_and_left_out(tmp_path: Path, harm: str) -> None:
    saved_run(tmp_path)
    folder = tmp_path / "checkpoint-6"
    match harm:
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "cut manifest":
            (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:-20])
        case "cut weights":
            (folder / LORA_FILE).write_bytes((folder / LORA_FILE).read_bytes()[:-1])
        case "no optimizer":
            (folder / "optimizer.safetensors").unlink()
    events = Events()
    assert found_name(tmp_path, events=events) == "checkpoint-4"
    assert any("checkpoint-6" in event.text for event in events if isinstance(event, Notice))
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        found_name(tmp_path, "checkpoint-6")


def test_one_flipped_bit_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    saved_run(tmp_path, steps=2)
    file = tmp_path / "checkpoint-2" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    checkpoint = find_checkpoint(tmp_path, "latest", reporter=Reporter())
    assert checkpoint is not None
    trained = small_trained(SmallDenoiser())
    optimizer = make_optimizer(OptimizerOptions(), weights=trained.weights, seed=0)
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors is damaged"):
        restore_trained(checkpoint, trained=trained)
        restore_optimizer_state(checkpoint, weights=trained.weights, optimizer=optimizer)


def test_a_newer_format_is_not_guessed_at(tmp_path: Path) -> None:
    saved_run(tmp_path, steps=2)
    file = tmp_path / "checkpoint-2" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="newer one"):
        found_name(tmp_path, "checkpoint-2")


def test_the_latest_ones_are_kept_after_the_new_one_stands(tmp_path: Path) -> None:
    saved_run(tmp_path, steps=10, keep=3)
    (tmp_path / "checkpoint-1").mkdir()  # incomplete ones do not count
    (tmp_path / "checkpoint-1" / LORA_FILE).touch()
    SmallRun(output=tmp_path, steps=12, keep=3).run(StopSignal(), Events())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-1", "checkpoint-10", "checkpoint-12", "checkpoint-8"]


def test_a_run_begun_anew_keeps_its_own_checkpoints_and_they_are_the_latest(tmp_path: Path) -> None:
    """A folder with higher step numbers of an older run neither wins over the new run's nor outlives them."""
    saved_run(tmp_path, steps=6)
    with_old = tmp_path / "old"
    shutil.copytree(tmp_path / "checkpoint-6", with_old / "checkpoint-6")
    shutil.copytree(tmp_path / "checkpoint-4", with_old / "checkpoint-4")
    branch = SmallRun(output=with_old, steps=6, keep=2, save_every=1)
    # Continue from step 4, saving 5, by making 4 the only one, then bring 6 of the older run back.
    older = with_old / "checkpoint-6"
    older.rename(tmp_path / "aside")
    dataclasses.replace(branch, steps=5).run(StopSignal(), Events())
    (tmp_path / "aside").rename(older)
    manifest = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps(manifest | {"serial": 1}))
    assert [each.folder.name for each in complete_checkpoints(with_old)][-1] == "checkpoint-5"
    branch.run(StopSignal(), Events())
    assert sorted(path.name for path in with_old.iterdir()) == ["checkpoint-5", "checkpoint-6"]
    assert read_manifest(older).serial > 1


def test_a_run_killed_while_a_checkpoint_is_written_continues_exactly(tmp_path: Path) -> None:
    expected = SmallRun(output=tmp_path / "straight").run(StopSignal(), Events())
    broken = tmp_path / "broken"
    killed_run(broken, at_save=4)
    assert [path.name for path in broken.iterdir() if not path.name.startswith(".")] == ["checkpoint-2"]
    assert list(broken.glob(".checkpoint-4.partial-*"))
    events = Events()
    found = SmallRun(output=broken).run(StopSignal(), events)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert any("deleted an unfinished checkpoint" in event.text for event in events if isinstance(event, Notice))
    assert not list(broken.glob(".*"))


def test_kills_at_any_moment_leave_a_checkpoint_that_can_be_read(tmp_path: Path) -> None:
    """A process that saves after every step is killed at random moments and started again."""
    draw = random.Random(0)
    command = [
        sys.executable,
        "-m",
        "tests.unit.training.small_run",
        f"--output={tmp_path}",
        "--steps=100000",
        "--save_every=1",
        "--keep=2",
    ]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(draw.randrange(4, 40)):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        complete = complete_checkpoints(tmp_path)
        assert 1 <= len(complete) <= 3
        trained = small_trained(SmallDenoiser())
        optimizer = make_optimizer(OptimizerOptions(), weights=trained.weights, seed=0)
        restore_trained(complete[-1], trained=trained)
        restore_optimizer_state(complete[-1], weights=trained.weights, optimizer=optimizer)


def test_a_replaced_checkpoint_is_put_back_where_the_new_one_never_came(tmp_path: Path) -> None:
    saved_run(tmp_path, steps=2)
    (tmp_path / "checkpoint-2").rename(tmp_path / ".checkpoint-2.replaced")
    SmallRun(output=tmp_path, steps=2).run(StopSignal(), Events())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_names_its_base_and_holds_fp32_weights(tmp_path: Path) -> None:
    saved_run(tmp_path, steps=2)
    manifest = read_manifest(tmp_path / "checkpoint-2")
    assert (manifest.step, manifest.position.epoch) == (2, 1)
    assert manifest.foundations.base_model == "small"
    with safe_open(tmp_path / "checkpoint-2" / LORA_FILE, framework="pt") as file:
        assert all(file.get_tensor(name).dtype is torch.float32 for name in file.keys())  # noqa: SIM118


def test_a_checkpoint_is_one_that_the_first_version_goes_on_from(tmp_path: Path) -> None:
    """It refuses a format above 1, and a key that it does not know; the stored run holds what it wrote."""
    saved_run(tmp_path, steps=2)
    written = json.loads((tmp_path / "checkpoint-2" / "manifest.json").read_text())
    assert written["format"] == 1
    stored = json.loads((STORED / "checkpoint-2" / "manifest.json").read_text())
    assert written.keys() == stored.keys()
    for key in ("position", "foundations"):
        assert written[key].keys() - {"quantized_layers"} == stored[key].keys()
    for files in (written["files"], stored["files"]):
        assert {tuple(file) for file in files.values()} == {("size_bytes", "sha256")}
