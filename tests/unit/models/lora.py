"""A LoRA on SD3's transformer, as a run attaches it, and the kinds of SD3 that there are."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from helpers.config.options.model import LoraOptions
from helpers.models.adapters import attach_lora
from helpers.models.sd3.denoiser import target_modules

KINDS: Mapping[str, dict[str, Any]] = {
    "SD3 medium": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}


def attach(denoiser: nn.Module, lora: LoraOptions, *, seed: int) -> dict[str, nn.Parameter]:
    """The adapter's tensors by the names of the exported file."""
    return attach_lora(denoiser, lora=lora, modules=target_modules(denoiser, lora.lora_target), seed=seed)
