"""Text encoders learn beside the denoiser, on every base, and can be left out again."""

import pytest
import torch

from helpers.config.options.model import LoraOptions, PrecisionOptions, TextOptions
from helpers.models.adapters.lora import make_lora
from helpers.models.adapters.text_encoders import with_text_encoders
from helpers.models.family import ModelComponents
from helpers.models.sd3.trainable_text_encoders import learning_text
from helpers.models.sd3.transformer import load_denoiser, predict, target_modules

LORA = LoraOptions(lora_rank=2, lora_alpha=3.0)


@pytest.mark.parametrize("level", ["no_change", "int8-quanto"])
def test_the_base_is_what_is_left_without_any_adapter(level: str, parts: ModelComponents, cpu: torch.device) -> None:
    precision = PrecisionOptions(mixed_precision="bf16", base_model_precision=level)
    denoiser = load_denoiser(parts, precision, cpu)
    learning = learning_text(parts, TextOptions(train_text_encoder=True), precision, cpu)
    both = learning.wrap(denoiser)
    generator = torch.Generator().manual_seed(1)
    noisy, cached = torch.randn((2, 16, 8, 8), generator=generator), torch.randn((2, 20, 48), generator=generator)
    inputs = (noisy, torch.tensor([0.3, 0.8]), cached, cached.new_zeros(2, 0))
    tokens = torch.stack([learning.tokens(caption) for caption in ("a red square", "")])

    with torch.no_grad():
        base = predict(both, *inputs, tokens)
    trained = make_lora(denoiser, modules=target_modules(denoiser, LORA.lora_target), lora=LORA, seed=0)
    trained = with_text_encoders(trained, text=learning, lora=LORA, seed=0)
    assert {id(weight) for weight in both.parameters() if weight.requires_grad} == set(
        map(id, trained.weights.values())
    )
    for name, weight in trained.weights.items():
        assert weight.dtype is torch.float32
        if name.startswith("text_encoder"):
            weight.data.normal_(std=0.5, generator=generator)
    prediction = predict(both, *inputs, tokens)
    assert not torch.equal(prediction, base)
    prediction.square().mean().backward()
    assert all(weight.grad is not None for weight in trained.weights.values())
    with torch.no_grad(), trained.as_base(both):
        assert torch.equal(predict(both, *inputs, tokens), base)
    with torch.no_grad():
        assert torch.equal(predict(both, *inputs, tokens), prediction)
