"""A LoRA on SD3's transformer, as a run attaches it, and the kinds of SD3 that there are."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions
from helpers.models.adapters.lora import attach_lora
from helpers.models.sd3.transformer import target_modules

KINDS: Mapping[str, dict[str, Any]] = {
    "SD3 medium": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}


def attach(denoiser: nn.Module, lora: LoraOptions, *, seed: int) -> dict[str, nn.Parameter]:
    """The adapter's tensors by the names of the exported file."""
    return attach_lora(denoiser, lora=lora, modules=target_modules(denoiser, lora.lora_target), seed=seed)


def randomise(tensors: Mapping[str, Tensor]) -> None:
    """Let every tensor of an adapter matter."""
    generator = torch.Generator().manual_seed(7)
    for tensor in tensors.values():
        tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def inputs_of() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a tiny SD3 is asked to predict from: noisy latents, sigmas, text and pooled text of two samples."""
    generator = torch.Generator().manual_seed(3)
    shapes = (2, 16, 8, 8), (2, 20, 48), (2, 40)
    noisy, text, pooled = (torch.randn(shape, generator=generator) for shape in shapes)
    return noisy, torch.tensor([0.3, 0.8]), text, pooled
