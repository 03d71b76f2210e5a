"""A LoRA on SD3's transformer, as a run attaches it."""

from torch import nn

from helpers.config.options.model import LoraOptions
from helpers.models.adapters import attach_lora
from helpers.models.sd3.denoiser import target_modules


def attach(denoiser: nn.Module, lora: LoraOptions, *, seed: int) -> dict[str, nn.Parameter]:
    """The adapter's tensors by the names of the exported file."""
    return attach_lora(denoiser, lora=lora, modules=target_modules(denoiser, lora.lora_target), seed=seed)
