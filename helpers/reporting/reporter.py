"""Passes events to all listeners; one that fails is dropped with a warning, and the run continues."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from helpers.errors import UserError
from helpers.log import redact
from helpers.reporting.events import Event, Notice, RunFailed

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Handles the events of a run."""

    def handle(self, event: Event) -> None:
        """Handle an event; an exception is reported once, and the listener gets no further events."""
        ...

    def close(self) -> None:
        """The run is over, whether it finished, failed or was interrupted."""
        ...


class Reporter:
    """A listener that passes each event to all its listeners, one event at a time, from any thread."""

    def __init__(self, listeners: Sequence[Listener] = ()) -> None:
        self._turn = threading.RLock()
        self._listeners = list(listeners)
        self._failures: list[str] = []
        self._secrets: Sequence[str] = ()

    def add(self, make: Callable[[], Listener]) -> None:
        """Add the listener that `make` creates; if it fails, that is reported and the run continues.

        Raises UserError for what the user can fix, which is best done before the run.
        """
        try:
            self._listeners.append(make())
        except UserError:
            raise
        except Exception as error:  # a listener may fail, the run may not
            self._note(f"a listener could not start: {error!r}")

    def redact_secrets(self, secrets: Sequence[str]) -> None:
        """Hide `secrets` in all later events; they must be sorted from longest to shortest."""
        self._secrets = secrets

    def redact(self, text: str) -> str:
        """`text` without secrets."""
        return redact(text, secrets=self._secrets)

    def handle(self, event: Event) -> None:
        event = self._without_secrets(event)
        with self._turn:
            for listener in tuple(self._listeners):
                try:
                    listener.handle(event)
                except Exception as error:  # a listener may fail, the run may not
                    self._listeners.remove(listener)
                    self._note(f"{name_of(listener)} stopped reporting: {error!r}")

    def close(self) -> None:
        """Close every listener, in reverse order, and repeat which of them failed."""
        for listener in reversed(self._listeners):
            try:
                listener.close()
            except Exception as error:  # as above
                self._failures.append(f"{name_of(listener)} did not close: {error!r}")
        for failure in self._failures:
            logger.warning(failure)

    def _note(self, failure: str) -> None:
        self._failures.append(failure)
        logger.warning(failure)

    def _without_secrets(self, event: Event) -> Event:
        """Hide secrets in the texts of an event, such as a URL in an error message."""
        match event:
            case Notice():
                return replace(event, text=self.redact(event.text))
            case RunFailed():
                return replace(event, message=self.redact(event.message), traceback=self.redact(event.traceback))
            case _:
                return event


def name_of(listener: Listener) -> str:
    """The name of a listener in messages."""
    return getattr(listener, "name", type(listener).__name__)
