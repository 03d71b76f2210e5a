"""SD3 without T5: zeros in its place, which are those of diffusers' pipeline, and never cached."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.config.parse import parse_arguments
from helpers.errors import ConfigError
from helpers.models.family import ModelComponents, SampleRequest, TextEmbedding
from helpers.models.formats.safetensors import open_all
from helpers.models.memory import Workload
from helpers.models.registry import families
from helpers.models.sd3.text_encoders import assemble_text, text_parts

FAMILY = families()["sd3"]
LENGTH = 20
WHOLE = PrecisionOptions(mixed_precision="no")


@pytest.fixture(scope="module")
def without(tiny_pipeline: Path) -> ModelComponents:
    options = ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline), pretrained_t5_model_name_or_path="none")
    return FAMILY.locate(options)


def embed(parts: ModelComponents, caption: str) -> TextEmbedding:
    encoders = text_parts(parts, TextOptions(tokenizer_max_length=LENGTH), WHOLE, torch.device("cpu"))
    outputs = [part.load().encode([caption]) for part in encoders]
    return assemble_text([{name: rows[0] for name, rows in output.items()} for output in outputs])


@pytest.fixture
def theirs(tiny_pipeline: Path) -> Any:
    """Diffusers' pipeline without its third text encoder."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_pipeline, text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_conditioning_and_the_image_are_those_of_diffusers(without: ModelComponents, theirs: Any) -> None:
    ours, negative = embed(without, "a red fox"), embed(without, "")
    with torch.no_grad():
        prompt_embeds, _, pooled, _ = theirs.encode_prompt(
            "a red fox", None, None, do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )
    assert ours.prompt_embeds.shape == (77 + LENGTH, 48)
    assert torch.equal(ours.prompt_embeds, prompt_embeds[0].bfloat16())
    assert torch.equal(ours.pooled, pooled[0].bfloat16())
    denoiser = FAMILY.load_denoiser(without, WHOLE, torch.device("cpu"))
    request = SampleRequest(prompt=ours, negative=negative, width=64, height=64, steps=2, guidance=4.0, seed=3)
    latents = FAMILY.render(denoiser, without, request)
    expected = theirs(
        prompt_embeds=ours.prompt_embeds[None].float(),
        pooled_prompt_embeds=ours.pooled[None].float(),
        negative_prompt_embeds=negative.prompt_embeds[None].float(),
        negative_pooled_prompt_embeds=negative.pooled[None].float(),
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
    ).images
    raw = expected / theirs.vae.config.scaling_factor + theirs.vae.config.shift_factor
    assert torch.allclose(latents, raw, atol=1e-5)


def test_the_clips_keep_their_cache_keys(without: ModelComponents, parts: ModelComponents) -> None:
    options, device = TextOptions(tokenizer_max_length=LENGTH), torch.device("cpu")
    ours, whole = (text_parts(each, options, WHOLE, device) for each in (without, parts))
    assert [part.identity for part in ours[:2]] == [part.identity for part in whole[:2]]
    assert [part.is_constant for part in ours] == [False, False, True]
    assert ours[2].identity != whole[2].identity
    assert ours[2].bytes_per_caption == 0


def test_less_memory_is_needed_to_encode(without: ModelComponents, parts: ModelComponents) -> None:
    small = Workload(device="cuda", precision=PrecisionOptions(mixed_precision="bf16"), width=16, height=16)
    ours, whole = (FAMILY.estimate_memory(each, small) for each in (without, parts))
    assert ours.caching_bytes < whole.caching_bytes
    assert ours.training_bytes == whole.training_bytes


def test_what_is_written_holds_the_clips_alone(without: ModelComponents, theirs: Any, tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    with FAMILY.formats.open_base(without) as (weights, _):
        FAMILY.write_pipeline(weights, without, tmp_path, text={}, metadata={})
        FAMILY.formats.write_single_file(
            weights, without, tmp_path / "file.safetensors", text={}, metadata={}, with_text_encoders=True
        )
    # As the model card says: diffusers wants to be told, whatever model_index.json says.
    opened: Any = StableDiffusion3Pipeline.from_pretrained(tmp_path, text_encoder_3=None, tokenizer_3=None)
    held, before = (each.text_encoder_2.state_dict() for each in (opened, theirs))
    assert all(torch.equal(held[name], tensor) for name, tensor in before.items())
    with open_all([tmp_path / "file.safetensors"]) as (tensors, _):
        assert not [name for name in tensors if "t5xxl" in name]
        assert [name for name in tensors if "clip_g" in name]


@pytest.mark.parametrize("name", ["vae", "clip_l"])
def test_nothing_but_t5_may_be_left_out(name: str, tmp_path: Path, tiny_pipeline: Path) -> None:
    words = [f"--pretrained_model_name_or_path={tiny_pipeline}", "--max_train_steps=1", f"--output_dir={tmp_path}"]
    assert parse_arguments([*words, "--pretrained_t5_model_name_or_path=none"]).model.without_t5
    with pytest.raises(ConfigError, match="only T5 can be left out"):
        parse_arguments([*words, f"--pretrained_{name}_model_name_or_path=none"])
