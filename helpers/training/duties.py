"""Which rank does what between steps: the first averages, saves and draws, the others go on."""

from dataclasses import dataclass

from helpers.training.checkpoint import CheckpointWriter
from helpers.training.ema import Average
from helpers.training.state import TrainState
from helpers.training.validation import Painter


@dataclass(frozen=True, kw_only=True)
class FirstRankDuties:
    """Averages the weights, saves checkpoints and draws validation pictures."""

    writer: CheckpointWriter
    painter: Painter
    average: Average

    def stepped(self, step: int) -> None:
        self.average.update(step)

    def save(self, state: TrainState) -> None:
        self.writer.save(state)

    def draw(self, step: int, *, only_missing: bool = False) -> None:
        self.painter.draw(step, only_missing=only_missing)


@dataclass(frozen=True)
class OtherRankDuties:
    """Nothing: one rank's files are enough, and the weights of all are the same."""

    def stepped(self, step: int) -> None:
        """The first rank keeps the average."""

    def save(self, state: TrainState) -> None:
        """The first rank saves."""

    def draw(self, step: int, *, only_missing: bool = False) -> None:
        """The first rank draws."""
