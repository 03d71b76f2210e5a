"""One way to tell of long work, so that each stage shows a rate, a time left and what memory it needed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from helpers.reporting.events import StageAdvanced, StageFinished, StageStarted
from helpers.reporting.peak_memory import PeakMemory
from helpers.reporting.reporter import Reporter

Advance = Callable[..., None]


@contextmanager
def stage(reporter: Reporter, name: str, *, total: int, unit: str) -> Iterator[Advance]:
    """Tell `reporter` of work of `total` units (0: not known) while the block runs.

    name: what is done, in words, such as `encode images`; unit: the plural of what is counted, such as `images`.
    Yields `advance(count=1)`, to be called as units are done, from any thread. Work that raises is
    not told as finished.
    Stages follow each other and do not nest: the process has one high-water mark of memory.
    """
    reporter.handle(StageStarted(name=name, total=total, unit=unit))
    peak = PeakMemory()  # after the event, so that whoever watches the memory of more than this stage reads it first
    started = time.monotonic()

    def advance(count: int = 1) -> None:
        reporter.handle(StageAdvanced(name=name, count=count))

    yield advance
    reporter.handle(
        StageFinished(
            name=name,
            seconds=time.monotonic() - started,
            peak_memory_bytes=peak.resident_bytes(),
            peak_device_memory_bytes=peak.device_bytes(),
            peak_reserved_memory_bytes=peak.reserved_bytes(),
        )
    )
