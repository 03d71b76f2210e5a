"""Which dtype each part is held in, and the shrinking of frozen weights to eight bits and fewer."""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.options.model import PrecisionOptions
from helpers.errors import Problem

AS_IT_IS = "no_change"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# `torch._weight_int8pack_mm` on a processor reads past the end of rows that are no multiple of this: a crash, or
# numbers from anywhere (PyTorch 2.13). SD3's own layers are all multiples; those of small models need not be.
INT8_ROW = 16
# Where quanto multiplies bf16 by int8 with PyTorch's own kernel, which wants the scales in bf16 too.
PACKED_INT8 = ("cpu", "mps")


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
    return torch.bfloat16 if precision.base_model_precision != AS_IT_IS else encoder_dtype(precision)


def wrong_on(device: torch.device, precision: PrecisionOptions) -> list[Problem]:
    """What of `precision` (with `mixed_precision` resolved) cannot be computed on `device`."""
    problems: list[Problem] = []
    encoders = tuple(f"text_encoder_{number}_precision" for number in (1, 2, 3))
    for name in ("base_model_precision", *encoders):
        if getattr(precision, name) == "fp8-quanto" and device.type == "mps":
            reason, fix = "Apple's GPUs have no 8-bit floating point numbers", "say int8-quanto, which is as small"
            problems.append(Problem(option=name.upper(), value="fp8-quanto", reason=reason, fix=fix))
    packed = precision.base_model_precision == "int8-quanto" and device.type in PACKED_INT8
    if packed and precision.mixed_precision == "bf16" and precision.base_model_default_dtype == "fp32":
        reason = f"int8-quanto's scales would be fp32, beside bf16 arithmetic, which {device.type} cannot multiply"
        fix = "leave it out, or say MIXED_PRECISION=no"
        problems.append(Problem(option="BASE_MODEL_DEFAULT_DTYPE", value="fp32", reason=reason, fix=fix))
    return problems


def layers_to_quantize(module: nn.Module, level: str, *, device: torch.device, keep: Sequence[str] = ()) -> list[str]:
    """The names of `module`'s linear and convolution layers that `level` shrinks.

    device: where it will compute. keep: names of layers (shell patterns) that stay as they are, as do those that
    PyTorch cannot compute safely.
    """
    if level == AS_IT_IS:
        return []
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    odd = {name for name, layer in layers.items() if isinstance(layer, nn.Linear) and layer.in_features % INT8_ROW}
    unsafe = odd if level == "int8-quanto" and device.type == "cpu" else ()
    return [name for name in layers if name not in unsafe and not any(fnmatch(name, pattern) for pattern in keep)]


def quantize(module: nn.Module, level: str, *, layers: Sequence[str]) -> None:
    """Shrink the weights of some of `module`'s layers in place, for good, where they are; the layers are new ones.

    level: `int8-quanto`, `int4-quanto`, `int2-quanto` or `fp8-quanto`. `wrong_on` says which a device cannot compute.
    """
    if not layers:
        return
    from optimum import quanto

    types: dict[str, Any] = {
        "int8-quanto": quanto.qint8,
        "int4-quanto": quanto.qint4,
        "int2-quanto": quanto.qint2,
        "fp8-quanto": quanto.qfloat8,
    }
    quanto.quantize(module, weights=types[level], include=list(layers))
    for name in layers:
        layer: Any = module.get_submodule(name)
        layer.freeze()


def dense(layer: nn.Module) -> Tensor:
    """The weights [outputs, inputs] that a linear layer computes with, quantized or not, in fp32."""
    weight: Any = layer.weight
    return (weight.dequantize() if is_quantized(layer) else weight).detach().float()


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer's weights are held in fewer bits than they had."""
    return type(layer.weight).__module__.partition(".")[0] != "torch"
