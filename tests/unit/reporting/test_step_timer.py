"""A step is told with its own seconds and with the most memory since training began."""

import time

import pytest
import torch

from helpers.reporting.events import StageFinished, StepFinished
from helpers.reporting.progress import StepTimer, stage
from helpers.reporting.reporter import Reporter
from tests.unit.reporting.test_progress import Notebook

STEP = StepFinished(step=1, epoch=0, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, images=4)


def test_a_step_is_measured_without_what_is_done_between_steps() -> None:
    gauge = StepTimer()
    time.sleep(0.2)
    gauge.begin()
    time.sleep(0.05)
    assert 0.05 <= gauge.measured(STEP).seconds < 0.2


def test_memory_is_the_highest_also_where_a_stage_starts_the_mark_anew() -> None:
    gauge = StepTimer()
    low = gauge.measured(STEP).memory.peak_bytes
    block = bytearray(300_000_000)
    high = gauge.measured(STEP).memory.peak_bytes
    assert high > low + 250_000_000
    del block
    with stage(Reporter(), "validation", total=1, unit="images"):
        pass
    assert gauge.measured(STEP).memory.peak_bytes == high


def test_memory_of_a_device_is_told_as_used_and_as_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a claimed device, whose marks a stage starts again."""
    marks = {"max_memory_allocated": 4, "max_memory_reserved": 6, "memory_allocated": 3}
    for name in marks:
        monkeypatch.setattr(torch.cuda, name, lambda name=name: marks[name])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: marks.update(max_memory_reserved=5))
    gauge = StepTimer()
    marks["max_memory_reserved"] = 6
    first = gauge.measured(STEP).memory
    assert (first.device_bytes, first.peak_device_bytes, first.peak_reserved_bytes) == (3, 4, 6)
    notebook = Notebook()
    with stage(Reporter([notebook]), "validation", total=1, unit="images"):
        pass
    finished = notebook.events[-1]
    assert isinstance(finished, StageFinished) and finished.peak_reserved_memory_bytes == 5
    assert gauge.measured(STEP).memory.peak_reserved_bytes == 6
