"""The loss by noise level: gathered on the device with the step's other figures, so that telling it costs no wait."""

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.reporting.events import SigmaLoss

RANGES = 4
"""Equal parts of 0 < σ <= 1: the same for every sampling of σ, so that runs can be compared."""

COLUMNS = 3


def sums_by_sigma(losses: Tensor, sigmas: Tensor) -> Tensor:
    """Of samples with `losses` and `sigmas`, both fp32 [N]: a row for each range of σ, fp32 [RANGES, 3].

    A row is the sum of losses, the sum of σ and the number of samples. Additions only: a matrix product would round to
    TF32 on some devices.
    """
    parts = torch.arange(RANGES, device=sigmas.device)
    within = (sigmas * RANGES).floor().clamp(0, RANGES - 1)[:, None] == parts
    values = torch.stack([losses, sigmas, torch.ones_like(losses)], dim=1)
    return torch.where(within[:, :, None], values[:, None, :], 0.0).sum(dim=0)


def losses_by_sigma(rows: Sequence[float], *, ranks: int) -> tuple[SigmaLoss, ...]:
    """The losses of the ranges that had samples; `rows`: those of `sums_by_sigma` flattened, a mean over `ranks`."""
    found = []
    for part in range(RANGES):
        loss, sigma, count = rows[part * COLUMNS : (part + 1) * COLUMNS]
        if count > 0:
            found.append(
                SigmaLoss(
                    low=part / RANGES,
                    high=(part + 1) / RANGES,
                    loss=loss / count,
                    sigma=sigma / count,
                    samples=round(count * ranks),
                )
            )
    return tuple(found)
