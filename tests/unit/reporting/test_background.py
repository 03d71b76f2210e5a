"""A slow listener does not delay the run, loses only steps, and its failure is reported."""

import logging
import threading
import time

import pytest

from helpers.reporting.background import BackgroundListener
from helpers.reporting.events import Event, Notice, StepFinished
from helpers.reporting.reporter import Reporter


def step(number: int) -> StepFinished:
    return StepFinished(step=number, epoch=0, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, images=4)


class Slow:
    """Takes nothing in until it is let; raises at an event that says so."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.heard: list[Event] = []
        self.closed = False

    def handle(self, event: Event) -> None:
        self.let.wait(20)
        if isinstance(event, Notice) and event.text == "fail":
            raise OSError("the disk is full")
        self.heard.append(event)

    def close(self) -> None:
        self.closed = True


def test_all_events_arrive_in_order_by_the_end() -> None:
    slow = Slow()
    listener = BackgroundListener(slow, name="slow")
    events = [step(number) for number in range(50)]
    for event in events:
        listener.handle(event)
    assert not slow.heard
    slow.let.set()
    listener.close()
    assert slow.heard == events
    assert slow.closed


def test_one_that_lags_far_behind_loses_steps_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    listener = BackgroundListener(slow, name="the tracker", capacity=10)
    for number in range(30):
        listener.handle(step(number))
        listener.handle(Notice(text=str(number)))
    slow.let.set()
    listener.close()
    assert [event.text for event in slow.heard if isinstance(event, Notice)] == [str(number) for number in range(30)]
    assert sum(isinstance(event, StepFinished) for event in slow.heard) < 12
    assert caplog.messages[0] == "the tracker is slower than the run; some steps are not passed to it"
    assert "were not passed to the tracker" in caplog.messages[-1]
    assert len(caplog.messages) == 2, "once at first and once in the end"


def test_one_that_never_ends_is_left(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    listener = BackgroundListener(slow, name="the tracker", close_seconds=0.1)
    listener.handle(step(1))
    begin = time.monotonic()
    listener.close()
    assert time.monotonic() - begin < 2
    assert caplog.messages == [
        "the tracker did not finish within 0.1 s; the events that it had not handled yet are lost to it"
    ]
    slow.let.set()


@pytest.mark.parametrize("at_the_end", [False, True])
def test_what_it_raises_is_reported(at_the_end: bool, caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    listener = BackgroundListener(slow, name="the tracker")
    reporter = Reporter([listener])
    reporter.handle(Notice(text="fail"))
    slow.let.set()
    with caplog.at_level(logging.WARNING):
        if not at_the_end:
            listener._thread.join(5)
            reporter.handle(step(1))
            reporter.handle(step(2))
        reporter.close()
    what = "did not close" if at_the_end else "stopped reporting"
    assert set(caplog.messages) == {f"the tracker {what}: OSError('the disk is full')"}
