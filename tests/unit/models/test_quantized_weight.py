"""Quantized weights are quanto's numbers, multiplied as PyTorch multiplies plain ones, with no compiled code."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions, TextOptions
from helpers.models.family import ModelComponents
from helpers.models.quantized_weight import LEVELS, QuantizedWeight, group_size, quantized
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.transformer import load_denoiser, predict
from tests.unit.models.lora import attach
from tests.unit.models.stepped import given

SHAPES = ((64, 96), (33, 160), (7, 130), (128, 256), (9, 192), (1, 9), (5, 7))
DTYPES = (torch.bfloat16, torch.float32)


def layer_at(level: str, *, outputs: int, inputs: int, dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    """A frozen linear layer, quantized."""
    torch.manual_seed(outputs)
    layer = nn.Linear(inputs, outputs, bias=bias, dtype=dtype).requires_grad_(False)
    layer.weight = nn.Parameter(quantized(layer.weight, level=level), requires_grad=False)
    return layer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_the_numbers_are_those_that_quanto_rounds_to(level: str, dtype: torch.dtype) -> None:
    """Of more than one output: of a single one, quanto would give each number of its row a scale."""
    from optimum import quanto

    kind: Any = {
        "int8-quanto": quanto.qint8,
        "fp8-quanto": quanto.qfloat8,
        "int4-quanto": quanto.qint4,
        "int2-quanto": quanto.qint2,
    }[level]
    for outputs, inputs in (shape for shape in SHAPES if shape[0] > 1):
        weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(inputs)).to(dtype)
        layer: Any = quanto.QLinear(inputs, outputs, weights=kind)
        ours = quantized(weight, level=level)
        if kind.bits == 8:
            scale = layer.optimizer(weight, qtype=kind, axis=0)
            codes = torch.ops.quanto.quantize_symmetric(weight, dtype=kind.dtype, axis=0, scale=scale)
            wanted = scale * codes.to(dtype)
        else:
            group = layer.weight_group_size
            scale, shift = layer.optimizer(weight, qtype=kind, axis=0, group_size=group)
            codes = torch.ops.quanto.quantize_affine(weight, kind.bits, 0, group, scale, shift)
            wanted = (scale * codes - shift).reshape(weight.shape)
            assert group_size(inputs) == group or (group is None and group_size(inputs) == inputs)
        assert torch.equal(ours.scale, scale)
        assert torch.equal(ours.dequantize(), wanted), (outputs, inputs)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_a_layer_computes_what_a_plain_one_with_those_numbers_does(
    level: str, dtype: torch.dtype, autocast: bool
) -> None:
    """Forward and backward, with a bias and without, to the bit."""

    def computed(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            result = layer(x)
        return result, *torch.autograd.grad(result, x, gradient.to(result.dtype))

    for outputs, inputs in SHAPES:
        for bias in (True, False):
            rough = layer_at(level, outputs=outputs, inputs=inputs, dtype=dtype, bias=bias)
            plain = copy.deepcopy(rough)
            plain.weight = nn.Parameter(rough.weight.dequantize(), requires_grad=False)
            x = torch.randn(2, 3, inputs, dtype=dtype, requires_grad=True)
            gradient = torch.randn(2, 3, outputs)
            for found, wanted in zip(computed(rough, x, gradient), computed(plain, x, gradient), strict=True):
                assert found.dtype == wanted.dtype
                assert torch.equal(found, wanted), (outputs, inputs, bias)


@pytest.mark.parametrize("level", LEVELS)
def test_nothing_is_kept_for_the_backward_pass_but_the_weight_as_it_is_held(level: str) -> None:
    layer = layer_at(level, outputs=64, inputs=96, dtype=torch.bfloat16)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(torch.randn(4, 96, dtype=torch.bfloat16, requires_grad=True))
    assert [type(tensor) for tensor in kept] == [QuantizedWeight]


@pytest.mark.parametrize("level", LEVELS)
def test_a_weight_stays_quantized_where_it_is_moved_and_copied(level: str) -> None:
    layer = layer_at(level, outputs=64, inputs=96, dtype=torch.bfloat16)
    for other in (copy.deepcopy(layer), copy.deepcopy(layer).to("meta"), copy.deepcopy(layer).to(torch.bfloat16)):
        assert type(other.weight) is QuantizedWeight
        assert isinstance(other.weight, nn.Parameter)
        assert other.weight.codes.dtype == LEVELS[level].codes
        assert other.weight.dtype == torch.bfloat16
    assert torch.equal(copy.deepcopy(layer).weight.dequantize(), layer.weight.dequantize())
    held = sum(getattr(layer.weight, name).nbytes for name in layer.weight.__tensor_flatten__()[0])  # type: ignore[operator]
    assert held <= 64 * 96 * LEVELS[level].bits / 8 + 2 * 2 * 64
    assert repr(copy.deepcopy(layer).to("meta").weight).startswith("QuantizedWeight([64, 96]")
    with pytest.raises(TypeError, match="quantized weight in place"):
        layer.weight.zero_()


@pytest.mark.parametrize("level", LEVELS)
def test_rows_of_equal_weights_stay_numbers(level: str) -> None:
    """quanto divides by their scale of 0: at fp8 it makes NaN of a row of zeros."""
    weight = torch.randn(4, 64)
    weight[1], weight[2] = 0, 0.25
    rough = quantized(weight, level=level).dequantize()
    torch.testing.assert_close(rough[1:3], weight[1:3], atol=0, rtol=0.01)
    assert rough.isfinite().all()


@pytest.mark.parametrize("level", LEVELS)
def test_no_code_of_quanto_s_is_loaded_so_that_none_is_ever_compiled(
    level: str, parts: ModelComponents, cpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing it is refused here; what PyTorch compiles with, too."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "optimum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optimum", None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is compiled")

    monkeypatch.setattr("torch.utils.cpp_extension.load", refuse)
    precision = PrecisionOptions(mixed_precision="no", base_model_precision=level)
    for part in text_parts(parts, TextOptions(), precision, cpu):
        part.load().encode(["a red square"])
    denoiser = load_denoiser(parts, precision, cpu)
    weights = attach(denoiser, LoraOptions(lora_rank=2), seed=0)
    predict(denoiser, *given()).float().square().mean().backward()
    assert all(weight.grad is not None for weight in weights.values())
    assert isinstance(denoiser.get_parameter("transformer_blocks.0.ff.net.2.weight"), QuantizedWeight)
