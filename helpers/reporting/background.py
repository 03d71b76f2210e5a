"""Runs a listener that may be slow, such as one that uses the network, without making the run wait."""

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
    """A listener that passes events to another one on its own thread.

    When it lags by `capacity` events, steps and progress are dropped, with a warning, until it has caught up; the few
    other events are always kept. An exception of the other listener is raised by the next `handle`, or by `close`.
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
        """Queue an event without waiting; raises what the listener has raised since the last call."""
        if self._failure is not None:
            raise self._failure
        if isinstance(event, StepFinished | StageAdvanced) and self._queue.qsize() >= self._capacity:
            if not self._dropped:
                logger.warning(f"{self.name} is slower than the run; some steps are not passed to it")
            self._dropped += 1
        else:
            self._queue.put(event)

    def close(self) -> None:
        """Wait for the queued events, at most `close_seconds`; raises what the listener has raised."""
        self._queue.put(None)
        self._thread.join(self._close_seconds)
        if self._dropped:
            logger.warning(f"{self._dropped:,} events were not passed to {self.name}, which was slower than the run")
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            seconds = format_duration(self._close_seconds)
            logger.warning(
                f"{self.name} did not finish within {seconds}; the events that it had not handled yet are lost to it"
            )

    def _work(self) -> None:
        try:
            while (event := self._queue.get()) is not None:
                self._listener.handle(event)
            self._listener.close()
        except Exception as error:  # raised in the run's thread by the next event, or at the end
            self._failure = error
