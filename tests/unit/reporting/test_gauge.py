"""A step is told with its own seconds and with the most memory since training began."""

import time

from helpers.reporting.events import StepFinished
from helpers.reporting.gauge import StepGauge
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter

STEP = StepFinished(step=1, epoch=0, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, images=4)


def test_a_step_is_measured_without_what_is_done_between_steps() -> None:
    gauge = StepGauge()
    time.sleep(0.2)
    gauge.begin()
    time.sleep(0.05)
    assert 0.05 <= gauge.measured(STEP).seconds < 0.2


def test_memory_is_the_highest_also_where_a_stage_starts_the_mark_anew() -> None:
    gauge = StepGauge()
    low = gauge.measured(STEP).memory.peak_bytes
    block = bytearray(300_000_000)
    high = gauge.measured(STEP).memory.peak_bytes
    assert high > low + 250_000_000
    del block
    with stage(Reporter(), "validation", total=1, unit="images"):
        pass
    assert gauge.measured(STEP).memory.peak_bytes == high
