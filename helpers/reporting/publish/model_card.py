"""Writes `OUTPUT_DIR/README.md`, the model card of the result."""

import logging
from collections.abc import Callable
from pathlib import Path

from helpers.files import atomic_write_text
from helpers.reporting.events import CheckpointSaved, Event, RunFinished, RunStarted
from helpers.reporting.publish.card_text import MARK, CardContext, card_text, last_images
from helpers.reporting.publish.license import license_of

logger = logging.getLogger(__name__)

CARD = "README.md"


class ModelCard:
    """A listener that writes the card with each checkpoint and at the end.

    note: the user's own Markdown. repository: where the result is published, `owner/name`; empty if it is not.
    clean: removes secrets from a text. A README.md that SimpleTuner did not write is left as it is.
    """

    name = "the model card"

    def __init__(self, *, note: str, repository: str, clean: Callable[[str], str]) -> None:
        self._note, self._repository, self._clean = note, repository, clean
        self._run: RunStarted | None = None

    def handle(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run = event
                if not _may_write(event.output_dir / CARD):
                    logger.warning(
                        f"{event.output_dir / CARD} was not written by SimpleTuner: no model card is written"
                    )
                    self._run = None
            case CheckpointSaved() | RunFinished() if self._run is not None:
                self._write(
                    self._run, step=event.step, complete=isinstance(event, RunFinished) and not event.interrupted
                )

    def close(self) -> None:
        """Nothing to close."""

    def _write(self, run: RunStarted, *, step: int, complete: bool) -> None:
        context = CardContext(
            run=run,
            license=license_of(run.base_model, folder=run.base_folder, known=run.known_licenses),
            step=step,
            complete=complete,
            images=last_images(run.output_dir, step=step),
            note=self._note,
            repository=self._repository,
        )
        atomic_write_text(run.output_dir / CARD, self._clean(card_text(context)))


def _may_write(card: Path) -> bool:
    """Whether there is no card yet, or one of an earlier run."""
    return not card.exists() or MARK in card.read_text(encoding="utf-8", errors="replace")
