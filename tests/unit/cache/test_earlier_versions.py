"""Entries that an earlier version wrote, under another identity of the same encoder, are used like any other."""

from pathlib import Path

import torch

from helpers.cache.latents import LatentCache
from helpers.cache.text import TextCache
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import Convolution, Words, assemble, catalog_of, drawn, image
from tests.unit.cache.test_latents import expected
from tests.unit.cache.test_latents import fill as fill_latents
from tests.unit.cache.test_text import fill as fill_text


def test_captions_of_an_earlier_version_are_used_and_only_the_others_encoded(tmp_path: Path) -> None:
    store = LocalCache(tmp_path / "text")
    fill_text(store, ["a", "b"], Words("clip"), parts=[Words("clip").part(identity="by its files")])
    clip = Words("clip")
    part = clip.part(identity="by its tensors", earlier=("never used", "by its files"))
    fill_text(store, ["a", "b", "c"], clip, parts=[part])
    assert clip.captions == ["c"]
    cache = TextCache([store], parts=[part], assemble=assemble)
    assert all(torch.equal(cache.embedding(word).pooled, drawn(f"clip pooled {word}", 8)) for word in "abc")


def test_latents_of_an_earlier_version_are_used_and_damage_among_them_is_named(tmp_path: Path) -> None:
    store = LocalCache(tmp_path / "vae")
    for number in range(5):
        image(tmp_path / "photos" / f"{number}.png", seed=number)
    catalog, vae = catalog_of(tmp_path / "photos"), Convolution()
    fill_latents(store, catalog, vae, part=vae.part(identity="by its files"), write_batch_size=1)
    part = vae.part(identity="by its tensors", earlier=("by its files",))
    fill_latents(store, catalog, vae, part=part)
    assert vae.loads == 1 and vae.encoded == len(catalog)
    cache = LatentCache(store, catalog=catalog, part=part)
    assert all(torch.equal(cache.latents(index), expected(catalog, index)) for index in range(len(catalog)))

    shard = sorted((tmp_path / "vae").glob("shard-*"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    _, heard = fill_latents(store, catalog, vae, part=part, scan_for_errors=True)
    assert vae.encoded == len(catalog) + 1
    assert any("of dataset photos is damaged" in text for text in heard.warnings)
    cache = LatentCache(store, catalog=catalog, part=part)
    assert all(torch.equal(cache.latents(index), expected(catalog, index)) for index in range(len(catalog)))
