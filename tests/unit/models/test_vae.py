"""Images become the latents, and latents the images, that plain diffusers makes of them, each on its own."""

from dataclasses import replace
from functools import partial
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.config.options.model import PrecisionOptions
from helpers.models.family import LatentEncoder, ModelComponents
from helpers.models.sd3 import vae
from helpers.models.sd3.vae import latent_part
from helpers.models.sd3.weights.component_files import part_identity


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Five images [5, 64, 96, 3] of colored patches."""
    patches = torch.randint(0, 256, (5, 8, 12, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return patches.repeat_interleave(8, 1).repeat_interleave(8, 2)


@pytest.fixture(scope="module")
def encoder(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> LatentEncoder:
    return latent_part(parts, full_precision, cpu).load()


def test_latents_are_the_mean_that_diffusers_finds(
    encoder: LatentEncoder, pixels: Tensor, diffusers_pipeline: Any
) -> None:
    ours = encoder.encode(pixels[:1])
    colors = diffusers_pipeline.image_processor.preprocess(pixels[:1].numpy() / 255.0)
    with torch.no_grad():
        theirs = diffusers_pipeline.vae.encode(colors.float()).latent_dist.mean
    assert ours.dtype == torch.float32
    assert ours.shape == (1, 16, 8, 12)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("images_at_once", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_latent_does_not_depend_on_its_company(
    parts: ModelComponents,
    full_precision: PrecisionOptions,
    cpu: torch.device,
    pixels: Tensor,
    images_at_once: int,
    dtype: torch.dtype,
) -> None:
    """Four at once is what an accelerator does; the arithmetic is the same code."""
    load = latent_part(parts, full_precision, cpu).load
    assert isinstance(load, partial)
    wanted = replace(load.args[0], images_at_once=images_at_once, dtype=dtype)
    encoder = load.func(wanted)
    together = encoder.encode(pixels)
    for number in range(len(pixels)):
        assert torch.equal(encoder.encode(pixels[number : number + 1])[0], together[number])
    assert torch.equal(encoder.encode(pixels.flip(0)).flip(0), together)


def test_an_accelerator_is_filled_and_a_processor_shared_among_threads(
    parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device
) -> None:
    on_gpu = latent_part(parts, full_precision, torch.device("cuda"), vae_batch_size=6)
    assert isinstance(on_gpu.load, partial)
    assert on_gpu.load.args[0].images_at_once == 6
    assert on_gpu.parallel_encodes == 1
    assert latent_part(parts, full_precision, cpu).parallel_encodes == torch.get_num_threads()


def test_images_are_those_of_diffusers_pipeline(encoder: LatentEncoder, diffusers_pipeline: Any) -> None:
    latents = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(1))
    ours = encoder.decode(latents)
    with torch.no_grad():
        theirs = diffusers_pipeline.image_processor.postprocess(diffusers_pipeline.vae.decode(latents).sample, "np")
    assert ours.dtype == torch.uint8
    assert ours.shape == (2, 64, 96, 3)
    assert (ours.numpy() / 255.0 - theirs).__abs__().max() <= 1.01 / 255


def test_a_large_image_is_decoded_in_tiles(encoder: LatentEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tiles of 16 latent pixels in the place of 128: a part that is one tile's alone is decoded from it alone."""
    monkeypatch.setattr(vae, "TILE_LATENT_PIXELS", 16)
    latents = torch.randn(1, 16, 16, 24, generator=torch.Generator().manual_seed(1))
    image = encoder.decode(latents)
    assert image.shape == (1, 128, 192, 3)
    first_tile = encoder.decode(latents[..., :16])
    assert torch.equal(image[:, :96, :96], first_tile[:, :96, :96])
    monkeypatch.undo()
    assert not torch.equal(encoder.decode(latents)[:, :96, :96], first_tile[:, :96, :96])


def test_the_part_says_what_the_model_s_config_says(
    parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device
) -> None:
    part = latent_part(parts, full_precision, cpu)
    assert (part.shift, part.scale, part.channels, part.downscale) == (0.0609, 1.5305, 16, 8)


def test_the_number_format_is_part_of_the_identity(parts: ModelComponents, cpu: torch.device) -> None:
    plain = latent_part(parts, PrecisionOptions(mixed_precision="no"), cpu)
    mixed = latent_part(parts, PrecisionOptions(mixed_precision="bf16"), cpu)
    kept = latent_part(parts, PrecisionOptions(mixed_precision="bf16", vae_dtype="fp32"), cpu)
    assert plain.identity == kept.identity != mixed.identity


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_where_memory_is_short_or_tiles_are_asked_for_small_ones_are_decoded(
    encoder: LatentEncoder, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr("helpers.models.sd3.vae.SMALL_TILE_LATENT_PIXELS", 16)
    latents = torch.randn(1, 16, 16, 24, generator=torch.Generator().manual_seed(1))
    whole, tiled = encoder.decode(latents), encoder.decode(latents, tiled=True)
    assert not torch.equal(whole, tiled)
    model = encoder._model  # type: ignore[attr-defined]
    decode = model._decode

    def short(z: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        if not model.use_tiling:
            if device == "cuda":
                raise torch.OutOfMemoryError("the card is full")
            torch.empty(2**50)
        return decode(z, *arguments, **more)

    monkeypatch.setattr(model, "_decode", short)
    assert torch.equal(encoder.decode(latents), tiled)


def test_an_image_of_a_megapixel_is_decoded_whole_and_any_larger_one_in_tiles(
    encoder: LatentEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1024 x 1024 is the size that most people train and draw at; tiles would show seams there."""
    model = encoder._model  # type: ignore[attr-defined]
    tiles: list[int] = []

    def one_color(z: Tensor, *_: Any, **__: Any) -> Any:
        tiles.append(model.tile_latent_min_size if model.use_tiling else 0)
        return SimpleNamespace(sample=torch.zeros(1, 3, 8, 8))

    monkeypatch.setattr(model, "decode", one_color)
    for width in (128, 129):
        encoder.decode(torch.zeros(1, 16, 128, width))
    assert tiles == [0, 128]


def test_the_identity_stays_what_it_is_so_that_caches_stay(parts: ModelComponents, cpu: torch.device) -> None:
    """The version that caches were written by, the weights and the dtype, each behind its length."""
    facts = ("1", part_identity(parts.vae, parts.weights_variant), "torch.bfloat16")
    framed = "".join(f"{len(fact)}:{fact};" for fact in facts).encode()
    found = latent_part(parts, PrecisionOptions(mixed_precision="bf16"), cpu).identity
    assert found == blake2b(framed, digest_size=16).hexdigest()
