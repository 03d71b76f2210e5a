"""Chooses each component's dtype, and quantizes frozen weights to 8 bits or fewer."""

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
    """The text encoders' dtype: bf16 if `mixed_precision` (resolved for the device) is bf16, else fp32."""
    return torch.bfloat16 if precision.mixed_precision == "bf16" else torch.float32


def vae_dtype(precision: PrecisionOptions) -> torch.dtype:
    """The VAE's dtype: `vae_dtype` if set, else the text encoders'."""
    return DTYPES[precision.vae_dtype] if precision.vae_dtype else encoder_dtype(precision)


def base_dtype(precision: PrecisionOptions) -> torch.dtype:
    """The dtype of unquantized base weights: `base_model_default_dtype` if set, else bf16 in a quantized model."""
    if precision.base_model_default_dtype:
        return DTYPES[precision.base_model_default_dtype]
    return torch.bfloat16 if precision.base_model_precision != UNQUANTIZED else encoder_dtype(precision)


def check_device_support(device: torch.device, precision: PrecisionOptions) -> list[Problem]:
    """The settings in `precision` (with `mixed_precision` resolved) that `device` does not support."""
    problems: list[Problem] = []
    encoders = tuple(f"text_encoder_{number}_precision" for number in (1, 2, 3))
    for name in ("base_model_precision", *encoders):
        if getattr(precision, name) == "fp8-quanto" and device.type == "mps":
            reason, fix = "Apple's GPUs do not support 8-bit floating point", "set int8-quanto, which is as small"
            problems.append(Problem(option=name.upper(), value="fp8-quanto", reason=reason, fix=fix))
    return problems


def layers_to_quantize(module: nn.Module, level: str, *, keep: Sequence[str] = ()) -> list[str]:
    """The names of `module`'s linear layers that `level` quantizes.

    keep: names of layers (shell patterns) that are not quantized.
    """
    if level == UNQUANTIZED:
        return []
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name in layers if not any(fnmatch(name, pattern) for pattern in keep)]


def quantize(module: nn.Module, level: str, *, layers: Sequence[str]) -> None:
    """Quantize the weights of some of `module`'s linear layers in place, on their device.

    level: `int8-quanto`, `int4-quanto`, `int2-quanto` or `fp8-quanto`. See `check_device_support`.
    """
    for name in layers:
        layer: Any = module.get_submodule(name)
        layer.weight = nn.Parameter(quantized(layer.weight, level=level), requires_grad=False)


def dequantize(layer: nn.Module) -> Tensor:
    """The weights [outputs, inputs] of a linear layer, quantized or not, in fp32."""
    weight: Any = layer.weight
    return (weight.dequantize() if is_quantized(layer) else weight).detach().float()


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer's weights are quantized."""
    return isinstance(layer.weight, QuantizedWeight)
