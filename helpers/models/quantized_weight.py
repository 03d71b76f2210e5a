"""Weights in 8, 4 or 2 bits that work the same on every device, without a compiler.

Scales and codes equal optimum-quanto's bit for bit (a test compares them), but its tensor classes are not used. On
CUDA they become classes with compiled kernels: nvcc is needed, fp8 loses its biases (optimum-quanto 0.2.7), and int4
is multiplied in a different arithmetic than on a CPU. Keeping its plain classes would mean to patch functions inside
quanto, which its next release may rename. This module does not need quanto at run time, and the test shows when a new
release rounds differently.

Each product dequantizes the weight, in the forward pass and again in the backward pass, and uses PyTorch's matmul.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

ARITHMETIC = "products with dequantized weights"
"""How quantized layers compute; stored in checkpoints, so that a resumed run can report a change."""

GROUPS = (128, 96, 64, 32)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a level stores a weight: `bits` per value, in the 8-bit dtype `codes`."""

    bits: int
    codes: torch.dtype


LEVELS: Mapping[str, Kind] = {
    "int8-quanto": Kind(bits=8, codes=torch.int8),
    "fp8-quanto": Kind(bits=8, codes=torch.float8_e4m3fn),
    "int4-quanto": Kind(bits=4, codes=torch.uint8),
    "int2-quanto": Kind(bits=2, codes=torch.uint8),
}


class QuantizedWeight(Tensor):
    """A frozen weight [outputs, inputs] with the dtype of its scales. Every operation but a move dequantizes it.

    bits: per value. codes: at 8 bits [outputs, inputs], with one `scale` per row [outputs, 1]. Below 8 bits, uint8
    [groups / (8 / bits), group], the first groups in the lowest bits; `scale` and `shift` are [groups, 1].
    """

    bits: int
    codes: Tensor
    scale: Tensor
    shift: Tensor | None

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, shift: Tensor | None, *, bits: int, shape: torch.Size) -> Any:
        return Tensor._make_wrapper_subclass(cls, shape, dtype=scale.dtype, device=codes.device)  # type: ignore[attr-defined]

    def __init__(self, codes: Tensor, scale: Tensor, shift: Tensor | None, *, bits: int, shape: torch.Size) -> None:
        self.codes, self.scale, self.shift, self.bits = codes, scale, shift, bits

    def dequantize(self) -> Tensor:
        """The weight [outputs, inputs] as a plain tensor: code times scale, minus the shift below 8 bits."""
        if self.shift is not None:
            codes = _unpacked(self.codes, bits=self.bits)[: len(self.scale)]
            return (self.scale * codes).sub_(self.shift).view(self.shape)
        if self.codes.is_floating_point():
            return self.codes.to(self.dtype).mul_(self.scale)
        return self.scale * self.codes

    def __repr__(self, *, tensor_contents: object = None) -> str:
        """Without values: the compiler prints weights that have none."""
        return f"QuantizedWeight({list(self.shape)}, bits={self.bits}, dtype={self.dtype}, device={self.device})"

    def __tensor_flatten__(self) -> tuple[list[str], tuple[int, torch.Size]]:
        """The names of its plain tensors, for PyTorch."""
        return ["codes", "scale", *([] if self.shift is None else ["shift"])], (self.bits, self.shape)

    @staticmethod
    def __tensor_unflatten__(
        inner: Mapping[str, Tensor], context: tuple[int, torch.Size], outer_size: object, outer_stride: object
    ) -> "QuantizedWeight":
        """The weight made of these tensors."""
        bits, shape = context
        return QuantizedWeight(inner["codes"], inner["scale"], inner.get("shift"), bits=bits, shape=shape)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "QuantizedWeight":
        names, context = self.__tensor_flatten__()
        inner = {name: change(getattr(self, name)) for name in names}
        return self.__tensor_unflatten__(inner, context, self.shape, self.stride())

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return _linear(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MOVES and kwargs.get("dtype") in (None, args[0].dtype):
            kept = {name: value for name, value in kwargs.items() if name != "dtype"}
            return args[0]._changed(lambda tensor: func(tensor, *args[1:], **kept))
        if func._schema.is_mutable and isinstance(args[0], QuantizedWeight):
            raise TypeError(f"{func} would change a quantized weight in place, which is frozen")
        args, kwargs = tree_map_only(QuantizedWeight, QuantizedWeight.dequantize, (args, kwargs))
        return func(*args, **kwargs)


_MOVES = (torch.ops.aten.detach.default, torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)


def quantized(weight: Tensor, *, level: str) -> QuantizedWeight:
    """Quantize a plain weight [outputs, inputs] to one of `LEVELS`, on its device; scales have its dtype."""
    kind, weight = LEVELS[level], weight.detach()
    if kind.bits == 8:
        codes, scale = _symmetric(weight, codes=kind.codes)
        return QuantizedWeight(codes, scale, None, bits=kind.bits, shape=weight.shape)
    groups = weight.reshape(-1, group_size(weight.shape[1]))
    low, high = groups.amin(dim=1, keepdim=True), groups.amax(dim=1, keepdim=True)
    scale, shift = _nonzero((high - low) / (2**kind.bits - 1)), -low
    codes = ((groups + shift) / scale).round_().clamp_(0, 2**kind.bits - 1).to(kind.codes)
    return QuantizedWeight(_packed(codes, bits=kind.bits), scale, shift, bits=kind.bits, shape=weight.shape)


def group_size(inputs: int) -> int:
    """How many values share a scale below 8 bits: for long rows, the largest of `GROUPS` that divides `inputs`."""
    is_long = inputs > max(GROUPS)
    return next((size for size in GROUPS if is_long and inputs % size == 0), inputs)


def _symmetric(weight: Tensor, *, codes: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes, and scales [outputs, 1] that map each row's largest value to the end of the range."""
    limits = torch.finfo(codes) if codes.is_floating_point else torch.iinfo(codes)
    scale = _nonzero(weight.abs().amax(dim=1, keepdim=True) / limits.max)
    divided = weight / scale
    divided = divided if codes.is_floating_point else divided.round_()
    return divided.clamp_(limits.min, limits.max).to(codes), scale


def _nonzero(scale: Tensor) -> Tensor:
    """Replace zero scales (groups of equal weights) by 1, to avoid NaN."""
    return scale.masked_fill(scale == 0, 1)


def _packed(codes: Tensor, *, bits: int) -> Tensor:
    """Pack codes of fewer than 8 bits, uint8 [groups, group], several per byte; missing groups are zeros."""
    per_byte = 8 // bits
    rows = -(-len(codes) // per_byte)
    codes = nn.functional.pad(codes, (0, 0, 0, rows * per_byte - len(codes)))
    packed = torch.zeros_like(codes[:rows])
    for place, part in enumerate(codes.split(rows)):
        packed |= part << bits * place
    return packed


def _unpacked(packed: Tensor, *, bits: int) -> Tensor:
    return torch.cat([packed >> place & (2**bits - 1) for place in range(0, 8, bits)])


def _linear(x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """`linear` with the dequantized weight, also under autocast; weight and bias are frozen."""
    assert bias is None or not bias.requires_grad, "the bias of a quantized layer must be frozen"
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    product: Tensor = _FrozenLinear.apply(x, weight, bias)  # type: ignore[assignment]
    return product


class _FrozenLinear(torch.autograd.Function):
    """Saves neither its input nor the dequantized weight, which the backward pass computes again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, weight.dequantize(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        return gradient @ weight.dequantize().to(gradient.dtype), None, None
