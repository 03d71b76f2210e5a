"""A disk too small for the caches is told of before anything is encoded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.cache.keys import text_key
from helpers.cache.latents import fill_latent_cache
from helpers.cache.writer import ShardWriter
from helpers.config.options.data import CacheOptions
from helpers.errors import CacheError
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache
from helpers.training.disk_space import CacheNeed, captions_needed, check_cache_space, free_bytes, latents_needed
from tests.unit.cache.encoders import Convolution, Words, catalog_of, drawn, image


def need(folder: Path, *, size_bytes: int, name: str = "cats") -> CacheNeed:
    return CacheNeed(name=name, unit="images", folder=folder, total=10, missing=4, size_bytes=size_bytes)


def test_two_caches_on_one_disk_share_its_room(tmp_path: Path) -> None:
    needs = [need(tmp_path / "vae", size_bytes=6_000_000), need(tmp_path / "text", size_bytes=5_000_000, name="t5")]
    check_cache_space(lambda look: needs, free=lambda folder: 11_000_000)
    with pytest.raises(CacheError) as told:
        check_cache_space(lambda look: needs, free=lambda folder: 10_000_000)
    said = str(told.value)
    assert "need 11 MB more (cats 6 MB, t5 5 MB), but only 10 MB are free" in said
    assert str(tmp_path / "vae") in said
    for fix in ("cache_dir_vae", "compress_disk_cache", "smaller resolution"):
        assert fix in said


def test_what_the_caches_hold_already_is_looked_up_only_where_it_decides(tmp_path: Path) -> None:
    looks: list[bool] = []

    def needs(*, look: bool) -> list[CacheNeed]:
        looks.append(look)
        return [need(tmp_path, size_bytes=2_000_000 if look else 9_000_000)]

    check_cache_space(needs, free=lambda folder: 9_000_000)
    assert looks == [False]
    check_cache_space(needs, free=lambda folder: 3_000_000)
    assert looks == [False, False, True]
    with pytest.raises(CacheError, match="need 2 MB more"):
        check_cache_space(needs, free=lambda folder: 1_000_000)


def test_the_room_of_a_folder_to_be_is_that_of_the_folder_it_will_be_in(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.05)


def taken(store: LocalCache) -> int:
    return sum(size for name, size in store.sizes().items() if name.startswith("shard-"))


@pytest.mark.parametrize(("edge", "most"), [(32, 2.0), (512, 1.1)], ids=["mostly headers", "mostly tensors"])
def test_latents_take_no_more_room_than_was_said_and_not_much_less(tmp_path: Path, edge: int, most: float) -> None:
    for number in range(12):
        image(tmp_path / "photos" / f"{number}.png", seed=number, width=edge, height=edge)
    catalog, store, part = catalog_of(tmp_path / "photos"), LocalCache(tmp_path / "vae"), Convolution().part()
    said = latents_needed(catalog, part=part, store=store)
    fill_latent_cache(
        catalog,
        part=part,
        store=store,
        vae_batch_size=4,
        write_batch_size=100,
        workers=1,
        ranks=SingleProcess(),
        reporter=Reporter(),
    )
    assert said.missing == 12
    assert taken(store) <= said.size_bytes <= most * taken(store)
    assert latents_needed(catalog, part=part, store=store).size_bytes == 0


@pytest.mark.parametrize("compress", [False, True])
def test_captions_take_the_room_that_was_said(tmp_path: Path, compress: bool) -> None:
    captions, store = [str(number) for number in range(12)], LocalCache(tmp_path)
    part = replace(Words("t5").part(), bytes_per_caption=2 * 77 * 256)
    options = CacheOptions(compress_disk_cache=compress)
    (said,) = captions_needed(captions, parts=[part], store=store, options=options)
    with ShardWriter(store, rank=0, write_batch_size=100, compress=compress) as writer:
        for caption in captions:
            hidden: dict[str, torch.Tensor] = {"hidden": drawn(caption, 77, 256)}
            writer.add({text_key(caption, part_identity=part.identity): hidden})
    assert said.missing == 12 and said.size_bytes == pytest.approx(taken(store), rel=0.1)
