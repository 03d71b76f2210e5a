"""Every level of quantizing runs on CUDA without a compiler, on the weights that a processor computes with."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions
from helpers.models.performance.attention import use_attention
from helpers.models.quantization import dequantize, is_quantized, quantize
from helpers.models.quantized_weight import LEVELS
from helpers.models.sd3.transformer import load_denoiser, predict
from helpers.models.sd3.weights.components import locate
from tests.unit.models.lora import attach, randomise
from tests.unit.models.stepped import given

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def multiplies_as_a_processor() -> bool:
    """Whether the device is the one that tests make of the processor; a real one adds up in another order."""
    return "pretend" in torch.cuda.get_device_name().lower()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """To the bit where the device is made of the processor, else to what rounding in bf16 leaves."""
    tolerance = 0.0 if multiplies_as_a_processor() else 0.02 * float(wanted.abs().max())
    torch.testing.assert_close(found.cpu(), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(256, 256), (130, 96), (33, 130)])
@pytest.mark.parametrize("level", LEVELS)
def test_a_linear_layer_computes_as_on_a_processor(level: str, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs, dtype=dtype).requires_grad_(False)
    network = nn.Sequential(layer)
    quantize(network, level, layers=["0"])
    x, gradient = torch.randn(3, 7, inputs, dtype=dtype), torch.randn(3, 7, outputs, dtype=dtype)

    def computed(device: torch.device) -> tuple[Tensor, ...]:
        hidden = x.detach().to(device).requires_grad_()
        result = network.to(device)(hidden)
        return result.detach(), *torch.autograd.grad(result, hidden, gradient.to(device))

    on_cpu, weight = computed(CPU), dequantize(layer)
    for found, wanted in zip(computed(CUDA), on_cpu, strict=True):
        assert_same(found, wanted)
    assert is_quantized(layer) and torch.equal(dequantize(layer).cpu(), weight)


@pytest.mark.parametrize("via", ["cpu", "accelerator"])
@pytest.mark.parametrize("level", LEVELS)
def test_a_lora_learns_as_on_a_processor(level: str, via: str, tiny_pipeline: Path) -> None:
    """Without autocast, which has norms in fp32 on CUDA alone, and with the attention that both have."""
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))

    def gradients(device: torch.device) -> list[Tensor]:
        precision = PrecisionOptions(mixed_precision="no", base_model_precision=level, quantize_via=via)
        denoiser = load_denoiser(parts, precision, device)
        tensors = attach(denoiser, LoraOptions(lora_rank=2), seed=0)
        randomise(tensors)
        use_attention(denoiser.to(device), "math")
        predicted = predict(denoiser, *(tensor.to(device) for tensor in given()))
        return [predicted.detach(), *torch.autograd.grad(predicted.float().square().mean(), list(tensors.values()))]

    for found, wanted in zip(gradients(CUDA), gradients(CPU), strict=True):
        assert_same(found, wanted)
