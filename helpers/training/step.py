"""One forward and backward pass: from a batch to gradients."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from helpers.config.options.training import ObjectiveOptions
from helpers.dataloader.rng import generator
from helpers.dataloader.types import TrainBatch
from helpers.models.family import Predict
from helpers.models.flow_matching import loss_per_sample, loss_weights, noisy_latents, sample_sigma, velocity_target
from helpers.reporting.events import SigmaLoss
from helpers.training.distributed.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What learns: the denoiser as `runtime` prepared it, and the weights in it that move, by exported name.

    as_base: see `Trained`. sigma_edges: of the ranges of σ by which losses are told, from 0 to 1.
    """

    runtime: Runtime
    denoiser: nn.Module
    weights: Mapping[str, nn.Parameter]
    predict: Predict
    as_base: Callable[[nn.Module], AbstractContextManager[None]]
    objective: ObjectiveOptions
    sigma_edges: tuple[float, ...]


def draws_random_numbers(denoiser: nn.Module) -> bool:
    """Whether a forward pass in training mode draws from PyTorch's own generators."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in denoiser.modules())


def forward_backward(
    step_context: StepContext, batch: TrainBatch, *, share: float, seeded: bool, backward: Callable[[Tensor], None]
) -> Tensor:
    """Add the gradients of `share` times the batch's mean loss; the loss of each sample, fp32 [B], on the device.

    Samples `prior_preservation` are to be predicted as the base alone does (prior preservation, Ruiz et al.
    2022, section 3.3, with the base's prediction in the place of images that it drew).
    Nothing here waits for the device. backward: computes the gradients of a loss. seeded: seed what the forward pass
    draws itself, for batches that `draws_random_numbers`.
    """
    device = step_context.runtime.device
    latents, noise, sigmas, prompt_embeds, pooled = (
        tensor.to(device, non_blocking=True)
        for tensor in (batch.latents, batch.noise, batch.sigmas, batch.prompt_embeds, batch.pooled)
    )
    tokens = None if batch.tokens is None else batch.tokens.to(device, non_blocking=True)
    noisy = noisy_latents(latents, noise, sigmas)

    def predict() -> Tensor:
        with step_context.runtime.autocast():
            return step_context.predict(step_context.denoiser, noisy, sigmas, prompt_embeds, pooled, tokens)

    if batch.prior_preservation:
        with torch.no_grad(), step_context.as_base(step_context.denoiser):
            target = predict()
    else:
        target = velocity_target(latents, noise)
    if seeded:
        torch.manual_seed(batch.dropout_seed)
    prediction = predict()
    weights = loss_weights(sigmas, weighting=step_context.objective.loss_weighting)
    losses = loss_per_sample(prediction, target, loss_type=step_context.objective.loss_type) * weights
    backward(losses.mean() * share)
    return losses.detach()


RANGES = 4
DRAWS = 2**16
COLUMNS = 3


def sigma_quantiles(objective: ObjectiveOptions, *, shift: float) -> tuple[float, ...]:
    """The edges, from 0 to 1, of ranges of σ that have equally many of a run's samples; to two decimals.

    Measured on draws of the run's own distribution, always the same ones. Fewer than `RANGES` where that is so narrow
    that edges fall together.
    """
    drawn = sample_sigma(generator(0, "quantiles of sigma"), objective=objective, shift=shift, shape=(DRAWS,))
    inner = torch.quantile(drawn, torch.linspace(0, 1, RANGES + 1)[1:-1]).tolist()
    return tuple(sorted({0.0, *(round(edge, 2) for edge in inner), 1.0}))


def sums_by_sigma(losses: Tensor, sigmas: Tensor, *, edges: Sequence[float]) -> Tensor:
    """Of samples with `losses`, fp32 [N], and `sigmas`, fp32 [N] on the CPU: a row for each range, fp32 [ranges, 3].

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
