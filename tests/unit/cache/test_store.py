"""Shards are whole or named as damaged; the index is only a shortcut; every bit that was put in comes out."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from helpers.cache.keys import KEY_DTYPE, text_key
from helpers.cache.maintenance import verify
from helpers.cache.shard import read_header
from helpers.cache.store import TensorStore, open_tensors
from helpers.cache.writer import ShardWriter
from helpers.errors import CacheError
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import Heard, drawn

ALL = slice(None)


def key(number: int) -> str:
    return text_key(str(number), part_identity="test")


def keys(*numbers: int) -> np.ndarray:
    return np.array([key(number) for number in numbers], dtype=KEY_DTYPE)


def entry(number: int) -> dict[str, Tensor]:
    return {"hidden": drawn(f"hidden {number}", 3, 1 + number % 3), "pooled": drawn(f"pooled {number}", 5)}


def fill(store: LocalCache, numbers: range, *, each: int = 4, compress: bool = False) -> None:
    with ShardWriter(store, rank=0, write_batch_size=each, compress=compress) as writer:
        for number in numbers:
            writer.add({key(number): entry(number)})


def same(tensors: TensorStore, numbers: Sequence[int]) -> bool:
    return (
        all(
            torch.equal(found, entry(number)[name])
            for number in numbers
            for name, found in tensors.read(key(number)).items()
        )
        and not tensors.missing(keys(*numbers)).any()
    )


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shard-*.safetensors"))


@pytest.fixture
def store(tmp_path: Path) -> LocalCache:
    return LocalCache(tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_and_the_rest_is_missing(store: LocalCache, folder: Path, compress: bool) -> None:
    assert open_tensors(store).missing(keys(1, 2)).all()
    fill(store, range(10), compress=compress)
    tensors = open_tensors(store)
    assert len(shards(folder)) == 3
    assert same(tensors, range(10))
    assert tensors.missing(keys(3, 11, 9)).tolist() == [False, True, False]
    assert set(tensors.read(key(0))) == {"hidden", "pooled"}
    with pytest.raises(KeyError):
        tensors.read(key(11))


def test_a_shard_is_a_plain_safetensors_file(store: LocalCache, folder: Path) -> None:
    fill(store, range(2))
    with safe_open(shards(folder)[0], framework="pt") as file:
        assert torch.equal(file.get_tensor(f"{key(1)}/hidden"), entry(1)["hidden"])


def test_compressed_and_plain_entries_live_together(store: LocalCache) -> None:
    fill(store, range(5), compress=True)
    fill(store, range(5, 9), compress=False)
    assert same(open_tensors(store), range(9))


def test_a_tensor_outlives_its_file_and_changing_it_does_not_change_the_file(store: LocalCache, folder: Path) -> None:
    fill(store, range(1))
    before = shards(folder)[0].read_bytes()
    tensor = open_tensors(store).read(key(0))["hidden"]
    tensor += 1
    assert shards(folder)[0].read_bytes() == before
    shards(folder)[0].unlink()
    assert torch.equal(tensor, entry(0)["hidden"] + 1)


def test_an_entry_is_on_disk_once_it_is_old_enough_although_no_other_follows(store: LocalCache, folder: Path) -> None:
    with ShardWriter(store, rank=0, write_batch_size=100, flush_seconds=0.05) as writer:
        writer.add({key(0): entry(0)})
        deadline = time.monotonic() + 10
        while not shards(folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert same(open_tensors(store), range(1))


def test_large_entries_make_shards_of_fewer(store: LocalCache, folder: Path) -> None:
    large = {"hidden": torch.zeros(10_000_000, dtype=torch.bfloat16)}
    with ShardWriter(store, rank=0, write_batch_size=100) as writer:
        for number in range(4):
            writer.add({key(number): large})
    assert len(shards(folder)) == 1
    with ShardWriter(store, rank=0, write_batch_size=100) as writer:
        for number in range(5):
            writer.add({key(number): large})
    assert len(shards(folder)) == 3


def test_an_error_of_the_writing_thread_is_raised_where_the_work_is(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with (
        pytest.raises(CacheError, match="cache"),
        ShardWriter(LocalCache(tmp_path / "cache"), rank=0, write_batch_size=1) as writer,
    ):
        for number in range(1000):
            writer.add({key(number): entry(number)})


# The index


def test_the_index_tells_what_the_headers_tell(store: LocalCache, folder: Path) -> None:
    fill(store, range(10))
    open_tensors(store).compact()
    for shard in shards(folder):  # headers are not read again: only lengths are still right
        length = 8 + int.from_bytes(shard.read_bytes()[:8], "little")
        shard.write_bytes(b"\0" * length + shard.read_bytes()[length:])
    assert same(open_tensors(store), range(10))


def test_adding_entries_adds_to_the_index_without_rewriting_it(store: LocalCache, folder: Path) -> None:
    fill(store, range(10))
    open_tensors(store).compact()
    (first,) = folder.glob("index-*")
    fill(store, range(10, 12))
    open_tensors(store).compact()
    assert first in folder.glob("index-*")
    assert same(open_tensors(store), range(12))
    assert not open_tensors(store).unindexed


def test_many_additions_keep_the_index_in_few_files(store: LocalCache, folder: Path) -> None:
    for number in range(30):
        fill(store, range(number, number + 1))
        open_tensors(store).compact()
    assert len(list(folder.glob("index-*"))) <= 9
    assert same(open_tensors(store), range(30))


@pytest.mark.parametrize("harm", ["lost", "cut", "flipped"])
def test_a_lost_or_damaged_index_is_made_again(store: LocalCache, folder: Path, harm: str) -> None:
    fill(store, range(10))
    open_tensors(store).compact()
    (index,) = folder.glob("index-*")
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "lost": index.unlink,
        "cut": lambda: index.write_bytes(content[:-30]),
        "flipped": lambda: index.write_bytes(content),
    }[harm]()
    tensors = open_tensors(store)
    assert same(tensors, range(10))
    assert not tensors.gone and not tensors.damaged
    tensors.compact()
    assert not open_tensors(store).unindexed and not open_tensors(store).stale


def test_a_damaged_index_of_a_store_without_shards_is_removed(store: LocalCache, folder: Path) -> None:
    store.write("index-lost.npz", b"no index")
    open_tensors(store).compact()
    assert not list(folder.iterdir())


# Damage


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_shard_cut_short_is_named_and_only_its_entries_are_missing(
    store: LocalCache, folder: Path, left: int, indexed: bool
) -> None:
    fill(store, range(12))
    if indexed:
        open_tensors(store).compact()
    cut = shards(folder)[1]
    held = [number for number in range(12) if key(number).encode() in cut.read_bytes()]
    cut.write_bytes(cut.read_bytes()[:left])
    tensors = open_tensors(store)
    assert tensors.missing(keys(*range(12))).nonzero()[0].tolist() == held
    assert any(cut.name in line and "cut short" in line for line in tensors.problems())
    fill(store, range(held[0], held[-1] + 1))
    open_tensors(store).compact()
    assert not cut.exists()
    assert not list(open_tensors(store).problems())
    assert same(open_tensors(store), range(12))


def test_a_shard_that_is_gone_is_named(store: LocalCache, folder: Path) -> None:
    fill(store, range(12))
    open_tensors(store).compact()
    gone = shards(folder)[2]
    gone.unlink()
    tensors = open_tensors(store)
    assert tensors.missing(keys(*range(12))).sum() == 4
    assert [gone.name in line for line in tensors.problems()] == [True]
    tensors.compact()
    assert not list(open_tensors(store).problems())


def test_a_shard_that_vanishes_while_in_use_is_named(store: LocalCache, folder: Path) -> None:
    fill(store, range(1))
    tensors = open_tensors(store)
    name = shards(folder)[0].name
    shards(folder)[0].unlink()
    with pytest.raises(CacheError, match=name):
        tensors.read(key(0))


@pytest.mark.parametrize("compress", [False, True])
def test_any_one_flipped_bit_is_harmless_or_found_and_what_is_left_is_right(
    store: LocalCache, folder: Path, compress: bool
) -> None:
    fill(store, range(4), compress=compress)
    open_tensors(store).compact()
    (shard,) = shards(folder)
    whole, data = shard.read_bytes(), read_header(shard)[0].start
    for position in [*range(0, data, 7), *range(data, len(whole), 11), len(whole) - 1]:
        shard.write_bytes(bytes([*whole[:position], whole[position] ^ (1 << position % 8), *whole[position + 1 :]]))
        heard = Heard()
        verify(open_tensors(store), share=ALL, describe=lambda _: "the caption 'x'", reporter=heard.reporter())
        lacking = open_tensors(store).missing(keys(*range(4)))
        assert lacking.any() or position < data
        assert bool(lacking.any()) == bool(heard.warnings), position
        assert all(shard.name in text for text in heard.warnings)
        for number in (~lacking).nonzero()[0].tolist():
            assert same(open_tensors(store), range(number, number + 1)), position
        if position >= data:
            assert lacking.sum() == 1 and "the caption 'x'" in heard.warnings[0]
        for kept in folder.glob("shard-kept-*"):
            kept.unlink()


def test_an_undamaged_store_passes_and_stays_as_it_is(store: LocalCache, folder: Path) -> None:
    fill(store, range(9))
    before = {path: path.read_bytes() for path in shards(folder)}
    assert verify(open_tensors(store), share=ALL, describe=lambda _: None, reporter=Heard().reporter()) == ()
    assert {path: path.read_bytes() for path in shards(folder)} == before


def test_reading_many_entries_keeps_no_file_open(store: LocalCache) -> None:
    fill(store, range(40), each=1)
    tensors = open_tensors(store)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(40):
        tensors.read(key(number))
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_entry_of_one_tensor_is_found_wherever_its_key_is_in_the_order(store: LocalCache) -> None:
    with ShardWriter(store, rank=0, write_batch_size=100) as writer:
        for number in range(10):
            writer.add({key(number): {"latents": entry(number)["hidden"]}})
    assert not open_tensors(store).missing(keys(*range(10))).any()
    assert open_tensors(store).missing(np.array(["f" * 32, "0" * 32], dtype=KEY_DTYPE)).all()
