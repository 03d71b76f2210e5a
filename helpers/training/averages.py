"""Which average of what is trained a run keeps: of its own making, its optimizer's, or none."""

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from helpers.config.options.finetune import EmaOptions
from helpers.config.options.training import OptimizerOptions
from helpers.training.optim.ema import Ema, NoAverage, WeightAverage
from helpers.training.optim.schedule_free import ScheduleFreeAverage


def make_weight_average(
    ema: EmaOptions, options: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], optimizer: Optimizer
) -> WeightAverage:
    """The average that is configured, starting at the current weights. optimizer: the one that `options` describes."""
    if options.averages:
        return ScheduleFreeAverage(weights, optimizer=optimizer)
    if not ema.use_ema:
        return NoAverage()
    return Ema(weights, decay=ema.ema_decay, interval=ema.ema_update_interval, device=ema.ema_device)
