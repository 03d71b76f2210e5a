"""Signals to a real process: the step is finished and saved, or the process leaves at once when it is asked twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.training.checkpoint.checkpoint import complete_checkpoints
from helpers.training.signals import ECHO_SECONDS, Interrupted, handle_signals
from tests.unit.training.small_run import Events, SmallRun


def started_run(output: Path, *, batch_seconds: float, steps: int = 1000) -> subprocess.Popen[str]:
    """A run that has taken its first step."""
    command = [
        sys.executable,
        "-m",
        "tests.unit.training.small_run",
        f"--output={output}",
        f"--steps={steps}",
        f"--batch_seconds={batch_seconds}",
        "--accumulation=1",
        "--save_every=1000000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("StepFinished 1"):
        assert process.poll() is None
    return process


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_step_end_and_saves_it(tmp_path: Path, number: signal.Signals, status: int) -> None:
    process = started_run(tmp_path / "broken", batch_seconds=0.05)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Ctrl-C again exits without saving" in errors
    (checkpoint,) = complete_checkpoints(tmp_path / "broken")
    steps = [line for line in output.splitlines() if line.startswith("StepFinished")]
    assert steps == [f"StepFinished {step}" for step in range(2, checkpoint.manifest.step + 1)]
    assert len(steps) <= 2


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    process = started_run(tmp_path, batch_seconds=1.5)
    time.sleep(0.2)  # into the next step
    process.send_signal(signal.SIGINT)
    time.sleep(ECHO_SECONDS + 0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 0.8
    assert process.returncode == 130
    assert not complete_checkpoints(tmp_path)


def test_a_launchers_echo_is_no_second_signal(tmp_path: Path) -> None:
    process = started_run(tmp_path, batch_seconds=0.2)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert complete_checkpoints(tmp_path)


def test_before_the_loop_a_signal_ends_the_work_at_hand() -> None:
    with handle_signals(), pytest.raises(Interrupted) as interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert interrupted.value.exit_status == 143


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with handle_signals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with pytest.raises(Interrupted):
        stop.raise_if_requested()


def test_a_run_asked_to_stop_before_its_first_step_saves_nothing(tmp_path: Path) -> None:
    with handle_signals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        SmallRun(output=tmp_path).run(stop, Events())
    assert not complete_checkpoints(tmp_path)
