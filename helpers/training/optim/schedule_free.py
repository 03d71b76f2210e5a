"""The average of a schedule-free optimizer: the result of the run, while it trains with other weights.

Gradients are taken at y = (1 - beta) z + beta x: the optimizer updates z, and x, the mean of all z, is the result
(Defazio et al. 2024, "The Road Less Scheduled", arXiv 2405.15682, eqs. 3 to 5). The model holds y during training.
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
    """x, which the optimizer computes from y and its z; a `WeightAverage`.

    A checkpoint's weights are x, so they are as usable as a finished run's; y is stored in a file beside them.
    """

    facts: Mapping[str, str] = {"averaged": "schedule-free"}

    def __init__(self, weights: Mapping[str, nn.Parameter], *, optimizer: Any) -> None:
        self._weights = weights
        self._optimizer = optimizer

    def update(self, step: int) -> None:
        """Nothing: the optimizer's step updates it."""

    @contextmanager
    def applied(self) -> Iterator[None]:
        with restored_weights(self._weights):  # the optimizer's own conversion back to y rounds
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
