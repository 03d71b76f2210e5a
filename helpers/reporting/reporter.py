"""The one place events go to; a listener that fails is left out from then on, and the run goes on."""

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from helpers.reporting.events import Event

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Someone who is told of a run's events."""

    def hear(self, event: Event) -> None:
        """Take an event in; whatever is raised is reported once, and the listener is left out from then on."""
        ...

    def close(self) -> None:
        """The run is over, well or not."""
        ...


class Reporter:
    """A listener that passes each event on to all of its listeners, one event at a time whichever thread tells it."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._turn = threading.RLock()
        self._listeners = list(listeners)
        self._failures: list[str] = []

    def hear(self, event: Event) -> None:
        with self._turn:
            for listener in tuple(self._listeners):
                try:
                    listener.hear(event)
                except Exception as error:  # a listener may fail, the run may not
                    self._listeners.remove(listener)
                    self._failures.append(f"{type(listener).__name__} stopped reporting: {error!r}")
                    logger.warning(self._failures[-1])

    def close(self) -> None:
        """Close every listener, and say again which of them failed."""
        for listener in self._listeners:
            try:
                listener.close()
            except Exception as error:  # as above
                self._failures.append(f"{type(listener).__name__} did not close: {error!r}")
        for failure in self._failures:
            logger.warning(failure)
