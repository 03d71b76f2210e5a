"""The noise levels of a run in figures: the shift, quantiles of σ, and the loss by σ.

The loss by σ is summed on the device with the other figures of a step, so that reporting it costs no extra wait.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from helpers.config.options.training import ObjectiveOptions
from helpers.dataloader.rng import generator
from helpers.dataloader.sampler import SampleOrder
from helpers.models.flow_matching import flow_shift, sample_sigma
from helpers.reporting.events import SigmaLoss

RANGES = 4
DRAWS = 2**16
COLUMNS = 3


def describe_shift(objective: ObjectiveOptions, *, order: SampleOrder, model_shift: float) -> str:
    """The shift as a number, if FLOW_SHIFT is `model` or `auto`; otherwise empty."""
    if not isinstance(objective.flow_shift, str):
        return ""
    found = _shifts(objective, order=order, model_shift=model_shift)
    numbers = " to ".join(dict.fromkeys(f"{each:.3g}" for each in (min(found), max(found))))
    return f"noise levels: {objective.timestep_sampling}, shifted by {numbers} (FLOW_SHIFT={objective.flow_shift})"


def sigma_quantiles(objective: ObjectiveOptions, *, order: SampleOrder, model_shift: float) -> tuple[float, ...]:
    """The edges, from 0 to 1, of ranges of σ with equally many of a run's samples, to two decimals.

    model_shift: of the model's scheduler. Measured on fixed samples of the run's own distribution. Fewer
    ranges than `RANGES` if it is so narrow that edges coincide.
    """
    last = torch.tensor(order.bucket_images_per_epoch, dtype=torch.float64).cumsum(0)
    bucket = torch.bucketize((torch.arange(DRAWS) + 0.5) / DRAWS * last[-1], last)
    shift = torch.tensor(_shifts(objective, order=order, model_shift=model_shift))[bucket]
    drawn = sample_sigma(generator(0, "quantiles of sigma"), objective=objective, shift=shift, shape=(DRAWS,))
    inner = torch.quantile(drawn, torch.linspace(0, 1, RANGES + 1)[1:-1]).tolist()
    return tuple(sorted({0.0, *(round(edge, 2) for edge in inner), 1.0}))


def _shifts(objective: ObjectiveOptions, *, order: SampleOrder, model_shift: float) -> list[float]:
    """The shift of each bucket."""
    sizes = [bucket.size for bucket in order.buckets]
    return [flow_shift(objective, model_shift=model_shift, pixels=size.width * size.height) for size in sizes]


def sums_by_sigma(losses: Tensor, sigmas: Tensor, *, edges: Sequence[float]) -> Tensor:
    """Sums over samples with `losses`, fp32 [N], and `sigmas`, fp32 [N] on the CPU, by range; fp32 [ranges, 3].

    A row is the sum of losses, the sum of σ and the number of samples. Additions only: a matrix product would round to
    TF32 on some devices.
    """
    range_of = torch.bucketize(sigmas, torch.tensor(edges[1:-1]))
    sigmas, range_of = torch.stack([sigmas, range_of.float()]).to(losses.device, non_blocking=True)
    within = range_of[:, None] == torch.arange(len(edges) - 1, device=losses.device)
    values = torch.stack([losses, sigmas, torch.ones_like(losses)], dim=1)
    return torch.where(within[:, :, None], values[:, None, :], 0.0).sum(dim=0)


def losses_by_sigma(rows: Sequence[float], *, edges: Sequence[float], ranks: int) -> tuple[SigmaLoss, ...]:
    """The losses of the ranges that had samples; `rows`: those of `sums_by_sigma` flattened, a mean over `ranks`."""
    found = []
    for part, (low, high) in enumerate(pairwise(edges)):
        loss, sigma, count = rows[part * COLUMNS : (part + 1) * COLUMNS]
        if count > 0:
            samples = round(count * ranks)
            found.append(SigmaLoss(low=low, high=high, loss=loss / count, sigma=sigma / count, samples=samples))
    return tuple(found)
