"""Validation draws what plain diffusers draws, and training goes on as if it had not been."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from helpers.config.options.model import LoraOptions, PrecisionOptions, TextOptions
from helpers.errors import ModelError
from helpers.models.family import ModelComponents, SampleRequest, TextEmbedding
from helpers.models.sd3.sampling import render
from helpers.models.sd3.text_encoders import assemble_text, text_parts
from helpers.models.sd3.transformer import enable_checkpointing, load_denoiser, predict
from helpers.models.sd3.vae import latent_part
from tests.unit.models.lora import attach

PROMPT, NEGATIVE = "a red fox in the snow", "blurry"


@pytest.fixture
def denoiser(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> nn.Module:
    return load_denoiser(parts, full_precision, cpu)


@pytest.fixture(scope="module")
def texts(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> dict[str, TextEmbedding]:
    outputs = [part.load().encode([PROMPT, NEGATIVE]) for part in text_parts(parts, TextOptions(), full_precision, cpu)]
    return {
        caption: assemble_text([{name: rows[number] for name, rows in output.items()} for output in outputs])
        for number, caption in enumerate((PROMPT, NEGATIVE))
    }


def request(texts: dict[str, TextEmbedding], *, guidance: float = 3.0, seed: int = 5) -> SampleRequest:
    negative = texts[NEGATIVE] if guidance > 1 else None
    return SampleRequest(
        prompt=texts[PROMPT], negative=negative, width=96, height=64, steps=6, guidance=guidance, seed=seed
    )


def by_diffusers(
    pipeline: Any,
    texts: dict[str, TextEmbedding],
    *,
    guidance: float,
    dtype: torch.dtype,
    output_type: str,
    **more: Any,
) -> torch.Tensor:
    """What the plain pipeline draws from the same embeddings, in one dtype."""
    return pipeline.to(dtype)(
        prompt_embeds=texts[PROMPT].prompt_embeds[None].to(dtype),
        pooled_prompt_embeds=texts[PROMPT].pooled[None].to(dtype),
        negative_prompt_embeds=texts[NEGATIVE].prompt_embeds[None].to(dtype),
        negative_pooled_prompt_embeds=texts[NEGATIVE].pooled[None].to(dtype),
        width=96,
        height=64,
        num_inference_steps=6,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(5),
        output_type=output_type,
        **more,
    ).images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_latents_are_those_of_diffusers_pipeline(
    parts: ModelComponents,
    cpu: torch.device,
    texts: dict[str, TextEmbedding],
    diffusers_pipeline: Any,
    guidance: float,
    dtype: torch.dtype,
) -> None:
    precision = PrecisionOptions(mixed_precision="no" if dtype == torch.float32 else "bf16")
    ours = render(load_denoiser(parts, precision, cpu), parts, request(texts, guidance=guidance))
    theirs = by_diffusers(diffusers_pipeline, texts, guidance=guidance, dtype=dtype, output_type="latent")
    assert torch.equal(ours, (theirs / 1.5305 + 0.0609).float())


def test_under_autocast_only_predictions_are_in_bf16(
    parts: ModelComponents, cpu: torch.device, denoiser: nn.Module, texts: dict[str, TextEmbedding]
) -> None:
    """Latents and guidance stay in fp32, so that the many small moves of an image are not rounded away."""
    plain = render(denoiser, parts, request(texts))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quick = render(denoiser, parts, request(texts))
    assert quick.dtype is torch.float32
    moved = (quick - plain).abs()
    assert 0 < moved.mean() < 0.02 * plain.abs().mean()
    unscaled = (quick - 0.0609) * 1.5305
    assert not torch.allclose(unscaled, unscaled.bfloat16().float(), atol=1e-4)


def test_the_image_is_that_of_diffusers_pipeline(
    parts: ModelComponents,
    cpu: torch.device,
    denoiser: nn.Module,
    full_precision: PrecisionOptions,
    texts: dict[str, TextEmbedding],
    diffusers_pipeline: Any,
) -> None:
    ours = latent_part(parts, full_precision, cpu).load().decode(render(denoiser, parts, request(texts)))
    theirs = by_diffusers(diffusers_pipeline, texts, guidance=3.0, dtype=torch.float32, output_type="pt")
    assert torch.equal(ours, (theirs.permute(0, 2, 3, 1) * 255).round().to(torch.uint8))


def test_from_the_words_on_the_image_differs_only_by_the_embeddings_rounding(
    parts: ModelComponents,
    cpu: torch.device,
    denoiser: nn.Module,
    full_precision: PrecisionOptions,
    texts: dict[str, TextEmbedding],
    diffusers_pipeline: Any,
) -> None:
    """Ours are kept in 16 bits; the pipeline's own, in fp32, move no pixel far."""
    ours = latent_part(parts, full_precision, cpu).load().decode(render(denoiser, parts, request(texts)))[0]
    theirs = diffusers_pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=96,
        height=64,
        num_inference_steps=6,
        guidance_scale=3.0,
        max_sequence_length=77,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    assert abs(ours.numpy() / 255.0 - theirs).mean() < 1 / 255


def test_seed_prompt_and_guidance_are_seen(
    parts: ModelComponents, denoiser: nn.Module, texts: dict[str, TextEmbedding]
) -> None:
    image = render(denoiser, parts, request(texts))
    assert image.shape == (1, 16, 8, 12)
    assert torch.equal(render(denoiser, parts, request(texts)), image)
    for other in (request(texts, seed=6), request(texts, guidance=1.0), request(texts, guidance=5.0)):
        assert not torch.equal(render(denoiser, parts, other), image)


def test_training_is_left_as_it_was(
    parts: ModelComponents, denoiser: nn.Module, texts: dict[str, TextEmbedding]
) -> None:
    tensors = attach(denoiser, LoraOptions(lora_rank=4, lora_dropout=0.5), seed=0)
    enable_checkpointing(denoiser)
    denoiser.train()
    denoiser.get_submodule("norm_out").eval()
    modes = [module.training for module in denoiser.modules()]
    random_state = torch.get_rng_state()
    first = render(denoiser, parts, request(texts))
    assert torch.equal(render(denoiser, parts, request(texts)), first), "dropout must not act"
    assert [module.training for module in denoiser.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.requires_grad for parameter in tensors.values())
    assert not first.requires_grad


def test_checkpointing_changes_memory_not_gradients(
    parts: ModelComponents, denoiser: nn.Module, texts: dict[str, TextEmbedding]
) -> None:
    tensors = attach(denoiser, LoraOptions(lora_rank=4, lora_dropout=0.5), seed=0)
    for parameter in tensors.values():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    denoiser.train()
    noisy = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(3)
        embedding = texts[PROMPT]
        loss = predict(denoiser, noisy, torch.tensor([0.5]), embedding.prompt_embeds[None], embedding.pooled[None])
        return list(torch.autograd.grad(loss.square().mean(), list(tensors.values())))

    plain = gradients()
    enable_checkpointing(denoiser)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_skip_layer_guidance_is_that_of_diffusers(
    layers: tuple[int, ...],
    denoiser: nn.Module,
    parts: ModelComponents,
    texts: dict[str, TextEmbedding],
    diffusers_pipeline: Any,
) -> None:
    """On from the first share of the steps to the second, both left out: here in steps 1 and 2 of 6."""
    plain = request(texts)
    skipping = replace(plain, skip_layers=layers, skip_scale=2.8, skip_start=0.01, skip_stop=0.5)
    theirs = by_diffusers(
        diffusers_pipeline,
        texts,
        guidance=3.0,
        dtype=torch.float32,
        output_type="latent",
        skip_guidance_layers=list(layers),
        skip_layer_guidance_scale=2.8,
        skip_layer_guidance_start=0.01,
        skip_layer_guidance_stop=0.5,
    )
    assert torch.equal(render(denoiser, parts, skipping), (theirs / 1.5305 + 0.0609).float())
    assert not torch.allclose(render(denoiser, parts, skipping), render(denoiser, parts, plain), atol=1e-3)


def test_a_block_to_skip_that_is_not_there_is_named(
    denoiser: nn.Module, parts: ModelComponents, texts: dict[str, TextEmbedding]
) -> None:
    with pytest.raises(ModelError, match="block 99"):
        render(denoiser, parts, replace(request(texts), skip_layers=(0, 99)))


def test_skip_layer_guidance_begins_behind_its_first_share_as_in_diffusers(
    denoiser: nn.Module, parts: ModelComponents, texts: dict[str, TextEmbedding], diffusers_pipeline: Any
) -> None:
    """From a half of six steps on: in the fifth and the sixth, and not yet in the fourth, which is step 3 from 0."""
    skipping = replace(request(texts), skip_layers=(0,), skip_scale=2.8, skip_start=0.5, skip_stop=1.0)
    theirs = by_diffusers(
        diffusers_pipeline,
        texts,
        guidance=3.0,
        dtype=torch.float32,
        output_type="latent",
        skip_guidance_layers=[0],
        skip_layer_guidance_scale=2.8,
        skip_layer_guidance_start=0.5,
        skip_layer_guidance_stop=1.0,
    )
    assert torch.equal(render(denoiser, parts, skipping), (theirs / 1.5305 + 0.0609).float())
