"""Which dtype each component is held in, and which of its frozen weights are quantized to eight bits and fewer."""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.options.model import PrecisionOptions
from helpers.errors import Problem
from helpers.models.quantized_weight import QuantizedWeight, quantized

UNQUANTIZED = "no_change"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def encoder_dtype(precision: PrecisionOptions) -> torch.dtype:
    """The text encoders' format: bf16 where `mixed_precision` (resolved for the device) is."""
    return torch.bfloat16 if precision.mixed_precision == "bf16" else torch.float32


def vae_dtype(precision: PrecisionOptions) -> torch.dtype:
    """The VAE's format: as asked, else as the text encoders'."""
    return DTYPES[precision.vae_dtype] if precision.vae_dtype else encoder_dtype(precision)


def base_dtype(precision: PrecisionOptions) -> torch.dtype:
    """The format of the base's weights that are not quantized: as asked, else bf16 beside quantized ones."""
    if precision.base_model_default_dtype:
        return DTYPES[precision.base_model_default_dtype]
    return torch.bfloat16 if precision.base_model_precision != UNQUANTIZED else encoder_dtype(precision)


def check_device_support(device: torch.device, precision: PrecisionOptions) -> list[Problem]:
    """What of `precision` (with `mixed_precision` resolved) cannot be computed on `device`."""
    problems: list[Problem] = []
    encoders = tuple(f"text_encoder_{number}_precision" for number in (1, 2, 3))
    for name in ("base_model_precision", *encoders):
        if getattr(precision, name) == "fp8-quanto" and device.type == "mps":
            reason, fix = "Apple's GPUs have no 8-bit floating point numbers", "say int8-quanto, which is as small"
            problems.append(Problem(option=name.upper(), value="fp8-quanto", reason=reason, fix=fix))
    return problems


def layers_to_quantize(module: nn.Module, level: str, *, keep: Sequence[str] = ()) -> list[str]:
    """The names of `module`'s linear layers that `level` quantizes.

    keep: names of layers (shell patterns) that stay as they are.
    """
    if level == UNQUANTIZED:
        return []
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name in layers if not any(fnmatch(name, pattern) for pattern in keep)]


def quantize(module: nn.Module, level: str, *, layers: Sequence[str]) -> None:
    """Quantize the weights of some of `module`'s linear layers in place, for good, on the device where they are.

    level: `int8-quanto`, `int4-quanto`, `int2-quanto` or `fp8-quanto`. See `check_device_support`.
    """
    for name in layers:
        layer: Any = module.get_submodule(name)
        layer.weight = nn.Parameter(quantized(layer.weight, level=level), requires_grad=False)


def dequantize(layer: nn.Module) -> Tensor:
    """The weights [outputs, inputs] that a linear layer computes with, quantized or not, in fp32."""
    weight: Any = layer.weight
    return (weight.dequantize() if is_quantized(layer) else weight).detach().float()


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer's weights are held in fewer bits than they had."""
    return isinstance(layer.weight, QuantizedWeight)
