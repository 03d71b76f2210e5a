"""Gives uploads the time that they need when a run is complete, and hardly any when it was stopped."""

import logging

from helpers.reporting.background import BackgroundListener
from helpers.reporting.events import CheckpointSaved, Event, RunFinished, RunStarted
from helpers.reporting.reporter import Listener

logger = logging.getLogger(__name__)

COMPLETE_CLOSE_SECONDS = 2 * 3600.0
STOPPED_CLOSE_SECONDS = 10.0


class Uploads(BackgroundListener):
    """A listener that uploads, on a thread of its own; it is told only what leads to an upload."""

    def __init__(self, listener: Listener, *, complete_seconds: float = COMPLETE_CLOSE_SECONDS) -> None:
        super().__init__(listener, name="the hub", close_seconds=STOPPED_CLOSE_SECONDS)
        self._complete_seconds = complete_seconds

    def handle(self, event: Event) -> None:
        if isinstance(event, RunFinished) and not event.interrupted:
            self._close_seconds = self._complete_seconds
        if isinstance(event, RunStarted | CheckpointSaved | RunFinished):
            super().handle(event)

    def close(self) -> None:
        """Wait for the uploads; Ctrl-C leaves what is not there yet to the next start."""
        try:
            super().close()
        except KeyboardInterrupt:
            logger.warning("uploads were left; the same command once more uploads what is missing")
