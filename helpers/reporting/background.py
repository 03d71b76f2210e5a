"""Lets a listener that may be slow, such as one that speaks to a network, never keep the run waiting."""

import logging
import queue
import threading

from helpers.reporting.events import Event, StageAdvanced, StepFinished
from helpers.reporting.format import format_duration
from helpers.reporting.reporter import Listener

logger = logging.getLogger(__name__)

CAPACITY = 10_000
CLOSE_SECONDS = 30.0


class BackgroundListener:
    """A listener that passes events on to another one, on a thread of its own.

    Where that one lags by `capacity` events, steps and progress are dropped until it has caught up, with a notice;
    other events, which are few, are always kept. What the other raises is raised by the next `hear`, or by `close`.
    """

    def __init__(
        self, listener: Listener, *, name: str, capacity: int = CAPACITY, close_seconds: float = CLOSE_SECONDS
    ) -> None:
        self._listener, self.name = listener, name
        self._capacity, self._close_seconds = capacity, close_seconds
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def handle(self, event: Event) -> None:
        """Take an event in at once; raises what the listener has raised since the last time."""
        if self._failure is not None:
            raise self._failure
        if isinstance(event, StepFinished | StageAdvanced) and self._queue.qsize() >= self._capacity:
            if not self._dropped:
                logger.warning(f"{self.name} is slower than the run; some steps are not told to it")
            self._dropped += 1
        else:
            self._queue.put(event)

    def close(self) -> None:
        """Let what was heard be told, for so many seconds at the most; raises what the listener has raised."""
        self._queue.put(None)
        self._thread.join(self._close_seconds)
        if self._dropped:
            logger.warning(f"{self._dropped:,} events were not told to {self.name}, which was slower than the run")
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            seconds = format_duration(self._close_seconds)
            logger.warning(f"{self.name} was left after {seconds}; what it had not taken in yet is lost to it")

    def _work(self) -> None:
        try:
            while (event := self._queue.get()) is not None:
                self._listener.handle(event)
            self._listener.close()
        except Exception as error:  # told to the reporter by the next event, or at the end
            self._failure = error
