"""What an evaluation between optimizer steps is: the validation loss, validation images, or a metric of your own."""

from collections.abc import Mapping
from typing import Protocol

from helpers.training.plan import Interval


class Evaluator(Protocol):
    """Measures something about the weights as they are, on the main rank, between optimizer steps.

    A new metric is a class of this shape and a line in `training.setup.make_evaluators`: the console, the trackers, the
    run's page and the webhook show whatever `evaluate` returns.
    """

    @property
    def name(self) -> str:
        """What people read, such as `validation loss`."""
        ...

    @property
    def when(self) -> Interval:
        """When it is due; it also runs before the first step."""
        ...

    def evaluate(self, step: int, *, only_missing: bool = False) -> Mapping[str, float]:
        """Metrics after optimizer step `step` by tracker name, such as `held_out/mean`; empty to report nothing.

        only_missing: before the first step of a process; skip what an earlier process already measured at this step.
        Training's modes, weights, gradients and random state must be unchanged afterwards.
        """
        ...
