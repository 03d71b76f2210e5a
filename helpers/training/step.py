"""One forward and backward pass: from a batch to gradients."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.config.options.training import ObjectiveOptions
from helpers.dataloader.types import TrainBatch
from helpers.models.family import Predict
from helpers.models.flow_matching import loss_per_sample, loss_weights, noisy_latents, velocity_target
from helpers.training.distributed.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a training step uses: the denoiser as `runtime` prepared it, and its trainable weights by exported name.

    as_base: see `Trainable`. sigma_edges: of the ranges of σ by which losses are reported, from 0 to 1.
    """

    runtime: Runtime
    denoiser: nn.Module
    weights: Mapping[str, nn.Parameter]
    predict: Predict
    as_base: Callable[[nn.Module], AbstractContextManager[None]]
    objective: ObjectiveOptions
    sigma_edges: tuple[float, ...]


def draws_random_numbers(denoiser: nn.Module) -> bool:
    """Whether a forward pass in training mode uses PyTorch's global random state."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in denoiser.modules())


def forward_backward(
    step_context: StepContext, batch: TrainBatch, *, share: float, seeded: bool, backward: Callable[[Tensor], None]
) -> Tensor:
    """Add the gradients of `share` times the batch's mean loss; returns each sample's loss, fp32 [B], on the device.

    With `batch.prior_preservation` the target is the base model's own prediction (prior preservation, Ruiz et al. 2022,
    section 3.3, with predictions instead of generated images).
    Nothing here waits for the device. backward: computes the gradients of a loss. seeded: seed PyTorch's global random
    state, for a denoiser that `draws_random_numbers`.
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
