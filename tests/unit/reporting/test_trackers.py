"""A resumed run continues its tracked run, also if it was killed and repeats steps."""

from dataclasses import replace
from pathlib import Path

import pytest

from helpers.errors import ReportingError
from helpers.reporting.events import (
    Change,
    Event,
    MemoryUse,
    MetricsMeasured,
    RunFailed,
    RunStarted,
    SigmaLoss,
    StepFinished,
)
from helpers.reporting.trackers.metrics import step_metrics
from helpers.reporting.trackers.run_id import RunRecord
from helpers.reporting.trackers.tensorboard import TensorboardTracker
from helpers.reporting.trackers.wandb import WandbTracker
from tests.unit.reporting.tracked import tensorboard_scalars, wandb_files

CHANGED = (Change(name="learning_rate", before="0.1", now="0.2"),)


def started(first_step: int, *, changes: tuple[Change, ...] = ()) -> RunStarted:
    return RunStarted(
        base_model="a/model",
        model_type="lora",
        trainable_parameters=10,
        settings={"optimizer": {"learning_rate": 0.1}},
        datasets={"cats": 20},
        output_dir=Path("output"),
        first_step=first_step,
        total_steps=9,
        changes=changes,
    )


def step(number: int) -> StepFinished:
    return StepFinished(step=number, epoch=0, loss=number / 8, learning_rate=0.1, gradient_norm=1.0, images=4)


def steps(first: int, last: int) -> list[Event]:
    return [step(number) for number in range(first, last + 1)]


def test_the_metrics_of_a_step() -> None:
    parts = (
        SigmaLoss(low=0.0, high=0.25, loss=0.5, sigma=0.2, samples=1),
        SigmaLoss(low=0.75, high=1.0, loss=1.5, sigma=0.8, samples=3),
    )
    memory = MemoryUse(
        peak_bytes=3_000_000_000,
        device_bytes=1_000_000_000,
        peak_device_bytes=2_000_000_000,
        peak_reserved_bytes=2_500_000_000,
    )
    assert step_metrics(replace(step(2), by_sigma=parts, seconds=0.5, memory=memory)) == {
        "train/loss": 0.25,
        "train/learning_rate": 0.1,
        "train/gradient_norm": 1.0,
        "train/epoch": 0.0,
        "train/mean_sigma": pytest.approx(0.65),
        "loss_by_sigma/0.00-0.25": 0.5,
        "loss_by_sigma/0.75-1.00": 1.5,
        "samples_by_sigma/0.00-0.25": 1.0,
        "samples_by_sigma/0.75-1.00": 3.0,
        "speed/images_per_second": 8.0,
        "speed/seconds_per_step": 0.5,
        "memory/peak_gb": 3.0,
        "memory/device_gb": 1.0,
        "memory/device_peak_gb": 2.0,
        "memory/device_reserved_peak_gb": 2.5,
    }


HELD_OUT = MetricsMeasured(
    step=4, evaluator="validation loss", metrics={"held_out/mean": 0.5, "held_out/base_mean": 0.625}
)


def test_which_run_it_is(tmp_path: Path) -> None:
    def begin(first_step: int, *, last_step: int, changes: tuple[Change, ...] = ()) -> str:
        record = RunRecord(tmp_path / "logs" / "run.json")
        run = record.begin(started(first_step, changes=changes), name="x")
        record.note(run, last_step=last_step)
        return run.id

    first = begin(0, last_step=5)
    assert begin(5, last_step=6, changes=CHANGED) == first, "it continues where it was"
    assert begin(4, last_step=8) == first, "the steps after 4 are repeated, the same"
    other = begin(4, last_step=8, changes=CHANGED)
    assert other != first, "the steps after 4 are different"
    assert begin(0, last_step=0) not in (first, other), "started again"
    (tmp_path / "logs" / "run.json").write_text('{"id": "abc", "name": "x", "told": 5}')
    assert begin(5, last_step=6) == "abc", "a file of an earlier version"
    (tmp_path / "logs" / "run.json").write_text("{")
    assert begin(4, last_step=8) not in (first, other), "a damaged file does not matter"


def test_tensorboard_shows_the_steps_that_were_taken_last(tmp_path: Path) -> None:
    for begin in ([started(0), *steps(1, 4), HELD_OUT, *steps(5, 6)], [started(4, changes=CHANGED), *steps(5, 8)]):
        tracker = TensorboardTracker(tmp_path, name="a/b")
        for event in begin:
            tracker.handle(event)
        tracker.close()
    expected = [(number, number / 8) for number in range(1, 9)]
    folder = tmp_path / "tensorboard" / "a-b"
    assert tensorboard_scalars(folder, name="train/loss") == expected
    assert tensorboard_scalars(folder, name="held_out/mean") == [(4, 0.5)]


def test_wandb_s_offline_runs_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    starts: list[list[Event]] = [
        [started(0), *steps(1, 4), HELD_OUT, RunFailed(message="no")],
        [started(2), *steps(3, 5)],
    ]
    for begin in starts:
        tracker = WandbTracker(tmp_path, project="p", name="n")
        for event in begin:
            tracker.handle(event)
        tracker.close()
    first, second = wandb_files(tmp_path)
    assert (first.id, first.exit_code) == (second.id, 1)
    assert [row["_step"] for row in first.history] == [1, 2, 3, 4]
    assert [row["_step"] for row in second.history] == [3, 4, 5]
    assert first.history[-1]["held_out/mean"] == 0.5
    by_step = {row["_step"]: row["train/loss"] for row in (*first.history, *second.history)}
    assert by_step == {number: number / 8 for number in range(1, 6)}


def test_wandb_without_a_login_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ReportingError, match="wandb login"):
        WandbTracker(tmp_path, project="p", name="n")
