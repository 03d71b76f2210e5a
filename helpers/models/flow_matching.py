"""Rectified flow, the objective of SD3: which noise levels are trained on, what is predicted, and how errors count.

One equation per function. Equation numbers are those of Esser et al. 2024, "Scaling Rectified Flow Transformers for
High-Resolution Image Synthesis" (arXiv 2403.03206), whose t is our sigma: 0 is the clean image, 1 is pure noise.
"""

import math

import torch
from torch import Tensor

from helpers.config.options.training import AUTO_SHIFT, MODEL_SHIFT, ObjectiveOptions

SMALLEST_SIGMA = 1e-6
SMALLEST_WEIGHTED_SIGMA = 1e-3
HUBER_BEND = 0.1
AUTO_SHIFT_THERE, AUTO_EDGE_PX = 3.0, 1024
"""`auto` shifts images of 1024² pixels by 3, as SD3's scheduler does, and others by the square root of their pixels."""


def flow_shift(objective: ObjectiveOptions, *, model_shift: float, pixels: int) -> float:
    """The shift of images with so many pixels; model_shift: that of the model's scheduler (section 5.3.2)."""
    if objective.flow_shift == MODEL_SHIFT:
        return model_shift
    if objective.flow_shift == AUTO_SHIFT:
        return max(1.0, AUTO_SHIFT_THERE * math.sqrt(pixels) / AUTO_EDGE_PX)
    return float(objective.flow_shift)


def sample_sigma(
    generator: torch.Generator, *, objective: ObjectiveOptions, shift: float | Tensor, shape: tuple[int, ...] = ()
) -> Tensor:
    """Noise levels of samples, fp32 `shape`, in (0, 1], drawn from `generator` alone (on the CPU) and shifted."""
    return shifted(_unshifted_sigma(generator, objective, shape), shift=shift).clamp(SMALLEST_SIGMA, 1.0)


def _unshifted_sigma(generator: torch.Generator, objective: ObjectiveOptions, shape: tuple[int, ...]) -> Tensor:
    """Draws of the distribution that `timestep_sampling` names, in [0, 1]."""
    match objective.timestep_sampling:
        case "uniform":
            return torch.rand(shape, generator=generator)
        case "logit_normal":
            normal = torch.randn(shape, generator=generator)
            return logit_normal(normal, mean=objective.logit_mean, std=objective.logit_std)
        case "mode":
            return mode(torch.rand(shape, generator=generator), scale=objective.mode_scale)
        case "cosmap":
            return cosmap(torch.rand(shape, generator=generator))
        case "beta":
            return beta_2_2(torch.rand((*shape, 3), generator=generator))
        case unknown:
            raise AssertionError(f"timestep_sampling {unknown} is declared and not built")


def logit_normal(normal: Tensor, *, mean: float, std: float) -> Tensor:
    """Logit-normal noise levels of standard normal draws: sigmoid(mean + std·normal) (section 3.1)."""
    return torch.sigmoid(mean + std * normal)


def mode(uniform: Tensor, *, scale: float) -> Tensor:
    """Mode sampling with heavy tails: 1 - u - scale·(cos²(πu/2) - 1 + u) (eq. 20)."""
    return 1 - uniform - scale * (torch.cos(math.pi / 2 * uniform) ** 2 - 1 + uniform)


def cosmap(uniform: Tensor) -> Tensor:
    """CosMap, the cosine schedule's signal-to-noise ratios: 1 - 1 / (tan(πu/2) + 1) (eq. 21)."""
    return 1 - 1 / (torch.tan(math.pi / 2 * uniform) + 1)


def beta_2_2(uniform: Tensor) -> Tensor:
    """Beta(2, 2), which favors middle noise levels mildly: the median of three uniform draws [..., 3] has that law.

    The order statistic: the j-th of n uniform draws is Beta(j, n + 1 - j) (David and Nagaraja 2003, section 2.1).
    """
    return uniform.median(dim=-1).values


def shifted(sigmas: Tensor, *, shift: float | Tensor) -> Tensor:
    """Noise levels moved up for larger images: s·t / (1 + (s - 1)·t) with s = `shift` (section 5.3.2, s = √(m / n))."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def noisy_latents(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """What the model is shown, [B, C, h, w]: (1 - t)·x₀ + t·ε with t = `sigmas` [B] (eq. 13)."""
    sigmas = sigmas.view(-1, 1, 1, 1)
    return (1 - sigmas) * latents + sigmas * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """What the model should predict, [B, C, h, w]: the derivative of `noisy_latents` by sigma, ε - x₀."""
    return noise - latents


def loss_per_sample(prediction: Tensor, target: Tensor, *, loss_type: str) -> Tensor:
    """The distance of prediction and target [B, ...], averaged over each sample: [B], computed in fp32.

    `l2`: d². `huber`: 2c·(√(d² + c²) - c), about d² for small errors and 2c·|d| for large ones. `smooth_l1`: the same
    without the factor c (pseudo-Huber losses with c = 0.1, as in diffusers' training scripts and Khrapov et al. 2024,
    arXiv 2403.16728).
    """
    squared = (prediction.float() - target.float()) ** 2
    match loss_type:
        case "l2":
            distance = squared
        case "huber":
            distance = 2 * HUBER_BEND * _bent(squared)
        case "smooth_l1":
            distance = 2 * _bent(squared)
        case unknown:
            raise AssertionError(f"loss_type {unknown} is declared and not built")
    return distance.flatten(1).mean(1)


def _bent(squared: Tensor) -> Tensor:
    """√(d² + c²) - c of squared differences."""
    return torch.sqrt(squared + HUBER_BEND**2) - HUBER_BEND


def loss_weights(sigmas: Tensor, *, weighting: str) -> Tensor:
    """The weight of each sample's loss, fp32 [B], of sigmas [B] in (0, 1]; always finite.

    `sigma_sqrt`: 1 / t², as diffusers' scripts mean the word, bounded at t = 0.001 so that no sample outweighs a
    whole run. `cosmap`: 2 / (π·(1 - 2t + 2t²)), the density of `cosmap` draws (section 3.1).
    """
    match weighting:
        case "none":
            return torch.ones_like(sigmas)
        case "sigma_sqrt":
            return sigmas.clamp(min=SMALLEST_WEIGHTED_SIGMA) ** -2
        case "cosmap":
            return 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2))
        case unknown:
            raise AssertionError(f"loss_weighting {unknown} is declared and not built")
