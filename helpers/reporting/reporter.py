"""The one place events go to; a listener that fails is left out from then on, and the run goes on."""

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
    """Someone who is told of a run's events."""

    def handle(self, event: Event) -> None:
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
        self._secrets: Sequence[str] = ()

    def add(self, make: Callable[[], Listener]) -> None:
        """Let one more listen; one that cannot even begin is reported, and the run goes on.

        Raises UserError where the person can fix it, which is best done before the run.
        """
        try:
            self._listeners.append(make())
        except UserError:
            raise
        except Exception as error:  # a listener may fail, the run may not
            self._note(f"a listener could not begin: {error!r}")

    def redact_secrets(self, secrets: Sequence[str]) -> None:
        """From now on no listener is told any of `secrets`, the longest of which come first."""
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
        """Close every listener, the first to listen last, and say again which of them failed."""
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
        """Texts that the program makes up may hold what it was given, such as an address in an error."""
        match event:
            case Notice():
                return replace(event, text=self.redact(event.text))
            case RunFailed():
                return replace(event, message=self.redact(event.message), traceback=self.redact(event.traceback))
            case _:
                return event


def name_of(listener: Listener) -> str:
    """What a person is told that a listener is."""
    return getattr(listener, "name", type(listener).__name__)
