"""With SD3's own encoders: what is cached does not depend on what was cached before, nor on how."""

from pathlib import Path

import pytest
import torch

from helpers.cache.latents import LatentCache, fill_latent_cache
from helpers.cache.text import CaptionJob, TextCache, fill_text_cache
from helpers.config.options.data import CacheOptions
from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.models.family import ModelComponents
from helpers.models.registry import families
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import catalog_of, image

FAMILY = families()["sd3"]
PRECISION = PrecisionOptions(mixed_precision="bf16")
CPU = torch.device("cpu")


@pytest.fixture
def located(tiny_pipeline: Path) -> ModelComponents:
    return FAMILY.locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))


def test_a_caption_has_the_same_embedding_alone_in_a_crowd_and_compressed(
    located: ModelComponents, tmp_path: Path
) -> None:
    parts = FAMILY.text_parts(located, TextOptions(), PRECISION, CPU)
    captions = ["", "a red cat", *(f"an image of {number} houses" for number in range(40))]

    def cached(name: str, *rounds: list[str], compress: bool = False) -> TextCache:
        store = LocalCache(tmp_path / name)
        for some in rounds:
            fill_text_cache(
                [CaptionJob(captions=some, store=store, write_batch_size=16)],
                parts=parts,
                options=CacheOptions(compress_disk_cache=compress),
                ranks=SingleProcess(),
                reporter=Reporter(),
            )
        return TextCache([store], parts=parts, assemble=FAMILY.assemble_text)

    at_once = cached("at once", captions)
    others = (
        cached("in parts", captions[1:2], captions[::-1]),
        cached("packed", captions[7:], captions, compress=True),
    )
    for caption in captions[:2] + captions[-2:]:
        wanted = at_once.embedding(caption)
        for other in others:
            assert torch.equal(other.embedding(caption).prompt_embeds, wanted.prompt_embeds)
            assert torch.equal(other.embedding(caption).pooled, wanted.pooled)


def test_a_image_has_the_same_latents_alone_and_in_a_crowd(located: ModelComponents, tmp_path: Path) -> None:
    part = FAMILY.latent_part(located, PRECISION, CPU)

    def cached(name: str, *batch_sizes: int) -> LatentCache:
        store = LocalCache(tmp_path / name)
        for size in batch_sizes:
            fill_latent_cache(
                catalog_of(tmp_path / "photos"),
                part=part,
                store=store,
                vae_batch_size=size,
                write_batch_size=4,
                workers=2,
                ranks=SingleProcess(),
                reporter=Reporter(),
            )
        return LatentCache(store, catalog=catalog_of(tmp_path / "photos"), part=part)

    image(tmp_path / "photos" / "0.png", width=64, height=64)
    cached("in parts", 1)
    for seed in range(1, 6):
        image(tmp_path / "photos" / f"{seed}.png", seed=seed, width=64, height=64)
    in_parts, at_once = cached("in parts", 2), cached("at once", 4)
    for index in range(6):
        latents = at_once.latents(index)
        assert latents.shape == (16, 8, 8) and latents.dtype == torch.float32
        assert torch.equal(in_parts.latents(index), latents)
