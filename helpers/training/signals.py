"""Ctrl-C and SIGTERM: before the loop they end the run at once, within it they let the step end and be saved.

Everything before the loop (scanning, caching, loading) may be ended anywhere, because its files stand whole or not at
all. A second Ctrl-C always leaves at once.
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
# A launcher passes on the Ctrl-C that its children were sent as well; such an echo is no second one.
ECHO_SECONDS = 0.3


class Interrupted(KeyboardInterrupt):
    """The run was asked to end; like its parent, it passes by `except Exception`."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_status = EXIT_STATUS_OF_SIGNAL + signal_number


class StopSignal:
    """Whether the run was asked to end, and by which signal."""

    def __init__(self) -> None:
        self._signal_number: int | None = None
        self._asked_at = 0.0
        self._waits = False

    @property
    def requested(self) -> bool:
        """Whether to end as soon as the work at hand is whole."""
        return self._signal_number is not None

    def raise_if_requested(self) -> None:
        """Raise Interrupted where the run was asked to end, its work being saved."""
        if self._signal_number is not None:
            raise Interrupted(self._signal_number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a first signal sets `requested` and nothing else, so that a step can end and be saved."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def handle(self, signal_number: int, frame: FrameType | None) -> None:
        """Take a signal in; called by Python between two operations of the main thread."""
        now = time.monotonic()
        if self._signal_number is None:
            self._signal_number, self._asked_at = signal_number, now
            if not self._waits:
                raise Interrupted(signal_number)
            # Straight to the terminal: the thread may be in the midst of telling the reporter something.
            os.write(2, b"\nStopping: this step is finished and saved first. Ctrl-C again leaves at once, unsaved.\n")
        elif signal_number == signal.SIGINT and now - self._asked_at > ECHO_SECONDS:
            os._exit(EXIT_STATUS_OF_SIGNAL + signal_number)


@contextmanager
def handle_signals() -> Iterator[StopSignal]:
    """Within it, SIGINT and SIGTERM are heard by the StopSignal; afterwards by whoever heard them before."""
    request = StopSignal()
    before: dict[int, Any] = {number: signal.signal(number, request.handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
