"""Which rank does what between steps: the first averages, saves and draws, the others go on."""

from dataclasses import dataclass
from pathlib import Path

from helpers.training.checkpoint.checkpoint import CheckpointWriter
from helpers.training.moments import Moment, Rhythm
from helpers.training.optim.ema import Average
from helpers.training.state import TrainState
from helpers.training.validation.images import Painter
from helpers.training.validation.loss import HeldOut

VALIDATE_NOW = "validate_now"


@dataclass(frozen=True, kw_only=True)
class MainRankHooks:
    """Averages the weights, saves checkpoints, draws validation images and measures the validation loss.

    trigger_file: a file whose being there asks for images and the validation loss at once.
    """

    writer: CheckpointWriter
    painter: Painter
    draws: Rhythm
    held_out: HeldOut
    measures: Rhythm
    average: Average
    trigger_file: Path

    def stepped(self, step: int) -> None:
        self.average.update(step)

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        self.writer.save(state, keep_all=keep_all)

    def look(self, moment: Moment) -> None:
        asked = self._was_asked()
        if asked or self.measures.includes(moment):
            self.held_out.measure(moment.step, only_missing=moment.is_begin)
        if asked or self.draws.includes(moment):
            self.painter.draw(moment.step, only_missing=moment.is_begin)

    def wants(self, moment: Moment) -> bool:
        """Whether `look` would have something to do."""
        return self.trigger_file.exists() or self.measures.includes(moment) or self.draws.includes(moment)

    def _was_asked(self) -> bool:
        """Whether a person put the file there, which is gone afterwards."""
        try:
            self.trigger_file.unlink()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class NoHooks:
    """Nothing: one rank's files are enough, and the weights of all are the same."""

    def stepped(self, step: int) -> None:
        """The first rank keeps the average."""

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        """The first rank saves."""

    def look(self, moment: Moment) -> None:
        """The first rank draws and measures."""

    def wants(self, moment: Moment) -> bool:
        return False
