"""Ctrl-C and SIGTERM: before the training loop they end the run at once, in it after the step is saved.

Everything before the loop (scanning, caching, loading) may be interrupted anywhere, because its files are written
atomically. A second Ctrl-C always exits at once.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_STATUS_OF_SIGNAL = 128
# A launcher forwards the Ctrl-C that its children received as well; this echo does not count as a second one.
ECHO_SECONDS = 0.3


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; like its parent class, `except Exception` does not catch it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = EXIT_STATUS_OF_SIGNAL + signal_number


class StopSignal:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self._signal_number: int | None = None
        self._requested_at = 0.0
        self._is_deferred = False

    @property
    def requested(self) -> bool:
        """Whether to stop as soon as the current work is complete."""
        return self._signal_number is not None

    def raise_if_requested(self) -> None:
        """Raise Interrupted if the run was asked to stop; call it after the work is saved."""
        if self._signal_number is not None:
            raise Interrupted(self._signal_number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a first signal only sets `requested`, so that the step can finish and be saved."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """The signal handler; Python calls it between two operations of the main thread."""
        now = time.monotonic()
        if self._signal_number is None:
            self._signal_number, self._requested_at = signal_number, now
            if not self._is_deferred:
                raise Interrupted(signal_number)
            # Straight to the terminal: the thread may be in the middle of a call to the reporter.
            os.write(2, b"\nStopping after this step is finished and saved. Ctrl-C again exits without saving.\n")
        elif signal_number == signal.SIGINT and now - self._requested_at > ECHO_SECONDS:
            os._exit(EXIT_STATUS_OF_SIGNAL + signal_number)


@contextmanager
def handle_signals() -> Iterator[StopSignal]:
    """Within it, the StopSignal handles SIGINT and SIGTERM; the previous handlers are restored afterwards."""
    stop = StopSignal()
    before: dict[int, Any] = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
