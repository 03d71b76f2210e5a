"""Which average of what is trained a run keeps: of its own making, its optimiser's, or none."""

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from helpers.config.options.finetune import EmaOptions
from helpers.config.options.training import OptimizerOptions
from helpers.training.optim.ema import Average, Ema, NoAverage
from helpers.training.optim.schedule_free import ScheduleFreeAverage


def make_average(
    ema: EmaOptions, optimizer: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], optimiser: Optimizer
) -> Average:
    """The average that was asked for, beginning at the weights as they are. optimiser: that of `optimizer`."""
    if optimizer.averages:
        return ScheduleFreeAverage(weights, optimiser=optimiser)
    if not ema.use_ema:
        return NoAverage()
    return Ema(weights, decay=ema.ema_decay, interval=ema.ema_update_interval, device=ema.ema_device)
