"""Each part is held in the dtype that was asked for, and a quantized base can be trained over."""

import pytest
import torch

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.models.family import ModelComponents
from helpers.models.quantization import check_device_support, is_quantized
from helpers.models.sd3.transformer import load_denoiser, predict
from tests.unit.models.lora import attach

LEVELS = ("int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        (PrecisionOptions(mixed_precision="no"), torch.float32),
        (PrecisionOptions(mixed_precision="bf16"), torch.bfloat16),
        (PrecisionOptions(mixed_precision="bf16", base_model_default_dtype="fp32"), torch.float32),
        (PrecisionOptions(mixed_precision="no", base_model_precision="int8-quanto"), torch.bfloat16),
        (
            PrecisionOptions(mixed_precision="no", base_model_precision="int8-quanto", base_model_default_dtype="fp32"),
            torch.float32,
        ),
    ],
)
def test_the_base_is_held_as_asked(
    parts: ModelComponents, cpu: torch.device, precision: PrecisionOptions, dtype: torch.dtype
) -> None:
    denoiser = load_denoiser(parts, precision, cpu)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    assert not any(module.training for module in denoiser.modules())


@pytest.mark.parametrize("level", LEVELS)
def test_a_quantized_base_predicts_nearly_the_same_and_passes_gradients_to_lora_only(
    parts: ModelComponents, cpu: torch.device, full_precision: PrecisionOptions, level: str
) -> None:
    exact = load_denoiser(parts, full_precision, cpu)
    rough = load_denoiser(parts, PrecisionOptions(mixed_precision="no", base_model_precision=level), cpu)
    torch.manual_seed(0)
    noisy, sigmas, text, pooled = (
        torch.randn(2, 16, 8, 8),
        torch.tensor([0.2, 0.9]),
        torch.randn(2, 20, 48),
        torch.randn(2, 40),
    )
    with torch.no_grad():
        want = predict(exact, noisy, sigmas, text, pooled)
        have = predict(rough, noisy, sigmas, text, pooled).float()
    likeness = torch.cosine_similarity(have.flatten(), want.flatten(), dim=0)
    assert not torch.equal(have, want)
    assert likeness > {"int2-quanto": 0.5, "int4-quanto": 0.9}.get(level, 0.99)

    tensors = attach(rough, LoraOptions(lora_rank=2), seed=0)
    for parameter in tensors.values():
        parameter.data.normal_()
    predict(rough, noisy, sigmas, text, pooled).float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tensors.values())
    trained = {id(parameter) for parameter in tensors.values()}
    assert all(parameter.grad is None for parameter in rough.parameters() if id(parameter) not in trained)


def test_the_ends_of_the_network_stay_whole(parts: ModelComponents, cpu: torch.device) -> None:
    denoiser = load_denoiser(parts, PrecisionOptions(mixed_precision="bf16", base_model_precision="int8-quanto"), cpu)
    quantized = {
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, torch.nn.Linear) and is_quantized(module)
    }
    linear = {name for name, module in denoiser.named_modules() if isinstance(module, torch.nn.Linear)}
    assert quantized == {name for name in linear if name.startswith("transformer_blocks.")}


def test_what_a_device_cannot_compute_is_told_with_what_to_take_instead() -> None:
    apple, processor = torch.device("mps"), torch.device("cpu")
    fp8 = PrecisionOptions(base_model_precision="fp8-quanto", text_encoder_3_precision="fp8-quanto")
    told = check_device_support(apple, fp8)
    assert [problem.option for problem in told] == ["BASE_MODEL_PRECISION", "TEXT_ENCODER_3_PRECISION"]
    assert all("int8-quanto" in problem.fix for problem in told)
    assert not check_device_support(processor, fp8)
