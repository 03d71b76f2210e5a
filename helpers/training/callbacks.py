"""Which rank does what between steps: the first averages, saves and draws, the others go on."""

from dataclasses import dataclass
from pathlib import Path

from helpers.training.checkpoint.checkpoint import CheckpointWriter
from helpers.training.moments import Interval, StepInfo
from helpers.training.optim.ema import WeightAverage
from helpers.training.state import TrainState
from helpers.training.validation.images import ImageValidator
from helpers.training.validation.loss import LossValidator

VALIDATE_NOW = "validate_now"


@dataclass(frozen=True, kw_only=True)
class MainRankHooks:
    """Averages the weights, saves checkpoints, draws validation images and measures the validation loss.

    trigger_file: a file whose being there asks for images and the validation loss at once.
    """

    writer: CheckpointWriter
    painter: ImageValidator
    image_interval: Interval
    held_out: LossValidator
    loss_interval: Interval
    average: WeightAverage
    trigger_file: Path

    def on_step_end(self, step: int) -> None:
        self.average.update(step)

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        self.writer.save(state, keep_all=keep_all)

    def validate(self, moment: StepInfo) -> None:
        asked = self._was_asked()
        if asked or self.loss_interval.includes(moment):
            self.held_out.evaluate(moment.step, only_missing=moment.is_begin)
        if asked or self.image_interval.includes(moment):
            self.painter.generate(moment.step, only_missing=moment.is_begin)

    def is_due(self, moment: StepInfo) -> bool:
        """Whether `look` would have something to do."""
        return self.trigger_file.exists() or self.loss_interval.includes(moment) or self.image_interval.includes(moment)

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

    def on_step_end(self, step: int) -> None:
        """The first rank keeps the average."""

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        """The first rank saves."""

    def validate(self, moment: StepInfo) -> None:
        """The first rank draws and measures."""

    def is_due(self, moment: StepInfo) -> bool:
        return False
