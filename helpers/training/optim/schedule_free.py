"""The average that a schedule-free optimizer keeps: the weights to hand on, where it trains with others.

Gradients are taken at y = (1 - beta) z + beta x: z moves as the optimizer says, and x, the mean of all z, is the result
(Defazio et al. 2024, "The Road Less Scheduled", arXiv 2405.15682, eqs. 3 to 5). The model holds y while it learns.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from helpers.config.options.finetune import EmaOptions
from helpers.config.options.training import OptimizerOptions
from helpers.models.formats.safetensors import copy_tensors, write_tensors
from helpers.training.optim.ema import Ema, NoAverage, WeightAverage, restored_weights

TRAINED_WITH = "trained_with.safetensors"


class ScheduleFreeAverage:
    """x, which the optimizer works out from y and its z; an `Average`.

    A checkpoint's file of weights holds x, so that it is as good as a finished run's, and a file beside it y.
    """

    facts: Mapping[str, str] = {"averaged": "schedule-free"}

    def __init__(self, weights: Mapping[str, nn.Parameter], *, optimizer: Any) -> None:
        self._weights = weights
        self._optimizer = optimizer

    def update(self, step: int) -> None:
        """The optimizer's own step did it."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        with restored_weights(self._weights):  # the optimizer's own way back rounds
            self._optimizer.eval()
            try:
                yield
            finally:
                self._optimizer.train()

    def applied_for_saving(self) -> AbstractContextManager[None]:
        return self.applied()

    def save(self, folder: Path) -> None:
        write_tensors(folder / TRAINED_WITH, self._weights, metadata=self.facts)

    def load(self, folder: Path) -> None:
        copy_tensors(folder / TRAINED_WITH, into=self._weights, fix="Set what is trained back.")


def make_weight_average(
    ema: EmaOptions, options: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], optimizer: Optimizer
) -> WeightAverage:
    """The average that is configured, starting at the current weights. optimizer: the one that `options` describes."""
    if options.averages:
        return ScheduleFreeAverage(weights, optimizer=optimizer)
    if not ema.use_ema:
        return NoAverage()
    return Ema(weights, decay=ema.ema_decay, interval=ema.ema_update_interval, device=ema.ema_device)
