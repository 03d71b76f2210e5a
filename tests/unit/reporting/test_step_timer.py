"""A step is reported with its own seconds and the peak memory since training began."""

import time

import pytest
import torch

from helpers.reporting.events import StageFinished, StepFinished
from helpers.reporting.progress import StepTimer, stage
from helpers.reporting.reporter import Reporter
from tests.unit.reporting.test_progress import Recorder

STEP = StepFinished(step=1, epoch=0, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, images=4)


def test_a_step_is_measured_without_what_is_done_between_steps() -> None:
    timer = StepTimer()
    time.sleep(0.2)
    timer.begin()
    time.sleep(0.05)
    assert 0.05 <= timer.measured(STEP).seconds < 0.2


def test_memory_is_the_peak_also_after_a_stage_resets_it() -> None:
    timer = StepTimer()
    low = timer.measured(STEP).memory.peak_bytes
    block = bytearray(300_000_000)
    high = timer.measured(STEP).memory.peak_bytes
    assert high > low + 250_000_000
    del block
    with stage(Reporter(), "validation", total=1, unit="images"):
        pass
    assert timer.measured(STEP).memory.peak_bytes == high


def test_vram_is_reported_as_used_and_as_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pretend device, whose peaks a stage resets."""
    marks = {"max_memory_allocated": 4, "max_memory_reserved": 6, "memory_allocated": 3}
    for name in marks:
        monkeypatch.setattr(torch.cuda, name, lambda name=name: marks[name])
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: marks.update(max_memory_reserved=5))
    timer = StepTimer()
    marks["max_memory_reserved"] = 6
    first = timer.measured(STEP).memory
    assert (first.device_bytes, first.peak_device_bytes, first.peak_reserved_bytes) == (3, 4, 6)
    recorder = Recorder()
    with stage(Reporter([recorder]), "validation", total=1, unit="images"):
        pass
    finished = recorder.events[-1]
    assert isinstance(finished, StageFinished) and finished.peak_reserved_memory_bytes == 5
    assert timer.measured(STEP).memory.peak_reserved_bytes == 6
