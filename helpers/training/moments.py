"""When a running training is looked at, as arithmetic."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """Between optimizer steps: `step` are done. epochs: the numbers, from 1, of those that the last step ended.

    is_begin: nothing was trained yet by this process, which may continue a run. is_end: nothing will be any more.
    """

    step: int
    epochs: range = range(0)
    is_begin: bool = False
    is_end: bool = False


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Every so many steps, every so many epochs (None: whatever the epoch), and at the end."""

    steps: int
    epochs: int | None = None

    def includes(self, moment: StepInfo) -> bool:
        if moment.is_end or moment.step % self.steps == 0:
            return True
        return self.epochs is not None and any(epoch % self.epochs == 0 for epoch in moment.epochs)
