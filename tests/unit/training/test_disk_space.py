"""A disk too small for the caches or the checkpoints is reported before the work begins."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.cache.keys import text_key
from helpers.cache.latents import fill_latent_cache
from helpers.cache.writer import ShardWriter
from helpers.config.options.data import CacheOptions
from helpers.errors import CacheError, CheckpointError
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache
from helpers.training.disk_space import (
    CacheNeed,
    captions_needed,
    check_cache_space,
    check_checkpoint_space,
    checkpoint_bytes,
    free_bytes,
    latents_needed,
)
from helpers.training.signals import StopSignal
from tests.unit.cache.encoders import Convolution, Words, catalog_of, drawn, image
from tests.unit.training.small_run import Events, SmallRun


def need(folder: Path, *, size_bytes: int, name: str = "cats") -> CacheNeed:
    return CacheNeed(name=name, unit="images", folder=folder, total=10, missing=4, size_bytes=size_bytes)


def test_two_caches_on_one_disk_share_its_space(tmp_path: Path) -> None:
    needs = [need(tmp_path / "vae", size_bytes=6_000_000), need(tmp_path / "text", size_bytes=5_000_000, name="t5")]
    check_cache_space(lambda look: needs, free=lambda folder: 11_000_000)
    with pytest.raises(CacheError) as error:
        check_cache_space(lambda look: needs, free=lambda folder: 10_000_000)
    message = str(error.value)
    assert "need 11 MB more (cats 6 MB, t5 5 MB), but only 10 MB are free" in message
    assert str(tmp_path / "vae") in message
    for fix in ("cache_dir_vae", "compress_disk_cache", "smaller resolution"):
        assert fix in message


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


def test_a_missing_folder_has_the_space_of_its_parent(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.05)


def taken(store: LocalCache) -> int:
    return sum(size for name, size in store.sizes().items() if name.startswith("shard-"))


@pytest.mark.parametrize(("edge", "most"), [(32, 2.0), (512, 1.1)], ids=["mostly headers", "mostly tensors"])
def test_latents_take_no_more_space_than_estimated_and_not_much_less(tmp_path: Path, edge: int, most: float) -> None:
    for number in range(12):
        image(tmp_path / "photos" / f"{number}.png", seed=number, width=edge, height=edge)
    catalog, store, part = catalog_of(tmp_path / "photos"), LocalCache(tmp_path / "vae"), Convolution().part()
    estimate = latents_needed(catalog, part=part, store=store)
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
    assert estimate.missing == 12
    assert taken(store) <= estimate.size_bytes <= most * taken(store)
    assert latents_needed(catalog, part=part, store=store).size_bytes == 0


@pytest.mark.parametrize("compress", [False, True])
def test_captions_take_the_estimated_space(tmp_path: Path, compress: bool) -> None:
    captions, store = [str(number) for number in range(12)], LocalCache(tmp_path)
    part = replace(Words("t5").part(), bytes_per_caption=2 * 77 * 256)
    options = CacheOptions(compress_disk_cache=compress)
    (estimate,) = captions_needed(captions, parts=[part], store=store, options=options)
    with ShardWriter(store, rank=0, write_batch_size=100, compress=compress) as writer:
        for caption in captions:
            hidden: dict[str, torch.Tensor] = {"hidden": drawn(caption, 77, 256)}
            writer.add({text_key(caption, part_identity=part.identity): hidden})
    assert estimate.missing == 12 and estimate.size_bytes == pytest.approx(taken(store), rel=0.1)


def test_the_latest_is_complete_before_the_oldest_is_deleted(tmp_path: Path) -> None:
    def check(*, saves: int, free: int) -> None:
        check_checkpoint_space(tmp_path, each_bytes=10_000_000, saves=saves, keep=3, free=lambda folder: free)

    check(saves=9, free=40_000_000)
    check(saves=2, free=20_000_000)
    check(saves=0, free=0)
    with pytest.raises(CheckpointError) as error:
        check(saves=9, free=39_000_000)
    message = str(error.value)
    assert "need 40 MB more (4 of 10 MB each), but only 39 MB are free" in message
    assert str(tmp_path) in message and "CHECKPOINTING_LIMIT" in message
    with pytest.raises(CheckpointError, match="2 of 10 MB each"):
        check(saves=2, free=19_000_000)


def test_weights_are_counted_with_their_optimizer_state_and_average() -> None:
    weights = [torch.zeros(10, 10), torch.zeros(100)]
    assert checkpoint_bytes(weights, optimizer="adamw", keeps_average=False) == 200 * (4 + 8)
    assert checkpoint_bytes(weights, optimizer="adamw", keeps_average=True) == 200 * (4 + 8 + 4)
    half = [weight.bfloat16() for weight in weights]
    assert checkpoint_bytes(half, optimizer="adamw_bf16", keeps_average=False) == 200 * (2 + 4)


def test_existing_checkpoints_need_no_more_space(tmp_path: Path) -> None:
    """Two of three exist: space for one more, and for the next one until the oldest is deleted."""
    SmallRun(output=tmp_path, steps=4).run(StopSignal(), Events())

    def check(*, free: int) -> None:
        check_checkpoint_space(tmp_path, each_bytes=10_000_000, saves=9, keep=3, free=lambda folder: free)

    check(free=20_000_000)
    with pytest.raises(CheckpointError, match="2 of 10 MB each"):
        check(free=19_000_000)
