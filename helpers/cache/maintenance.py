"""Checks and cleans stores: names damaged shards, finds flipped bytes, removes entries that nothing uses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from helpers.cache.keys import Keys
from helpers.cache.shard import SUFFIX, DamagedShard, RawTensor, read_header, read_raw, shard_bytes
from helpers.cache.store import TensorStore, open_tensors
from helpers.ranks import Ranks
from helpers.reporting.events import Notice
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore

FETCHES_AT_ONCE = 8

# The image or caption of a key, for messages; None if the run does not use the key.
Describe = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class CacheContents:
    """How many entries a store holds, and how many of them nothing uses; sizes are of their tensors."""

    entries: int
    size_bytes: int
    unused_entries: int
    unused_bytes: int


def open_and_check(
    store: CacheStore, *, scan_for_errors: bool, describe: Describe, ranks: Ranks, reporter: Reporter
) -> TensorStore:
    """Open a store to fill it, with a warning for every damaged or missing shard.

    scan_for_errors: also compare every entry with its checksum; ranks divide the shards.
    """
    tensors = open_tensors(store)
    for problem in tensors.problems():
        reporter.handle(Notice(text=problem, level="warning"))
    if not scan_for_errors:
        return tensors
    ranks.barrier()  # an entry that one rank removes must not look lost to another
    verify(tensors, share=slice(ranks.rank, None, ranks.world_size), describe=describe, reporter=reporter)
    ranks.barrier()
    return open_tensors(store)


def finalize(store: CacheStore, *, ranks: Ranks) -> TensorStore:
    """Wait for all ranks' entries, update the index on one of them, and open the store again."""
    ranks.barrier()
    if ranks.rank == 0:
        open_tensors(store).compact()
    ranks.barrier()
    return open_tensors(store)


def download_missing(tensors: TensorStore, keys: Keys, *, ranks: Ranks, reporter: Reporter) -> None:
    """Download the shards of `keys` [K] that are only remote, so that training does not wait; ranks divide them."""
    names = tensors.shards_of(keys)[ranks.rank :: ranks.world_size]
    absent = [name for name in names if not tensors.store.is_here(name)]
    if absent:
        name = f"fetch cached files from {tensors.store.describe()}"
        with (
            stage(reporter, name, total=len(absent), unit="files") as advance,
            ThreadPoolExecutor(FETCHES_AT_ONCE) as pool,
        ):
            for _ in pool.map(tensors.store.local_path, absent):
                advance()
    ranks.barrier()


def verify(tensors: TensorStore, *, share: slice, describe: Describe, reporter: Reporter) -> tuple[str, ...]:
    """Compare every entry of a share of the shards with its checksum, and remove the damaged ones.

    share: a slice of the sorted shard names. Returns the removed keys; each is named in a warning. A shard whose header
    cannot be read is removed, with a warning.
    """
    names = sorted(name for segment in tensors.segments for name in segment.shard_names.tolist())[share]
    damaged: list[str] = []
    with stage(reporter, "check cached files", total=len(names), unit="files") as advance:
        for name in names:
            for key, text in _verify_shard(tensors.store, name, describe=describe):
                damaged.append(key)
                reporter.handle(Notice(text=text, level="warning"))
            advance()
    return tuple(key for key in damaged if key)


def _verify_shard(store: CacheStore, name: str, *, describe: Describe) -> list[tuple[str, str]]:
    """Repair one shard; the damaged entries' keys ("" for the entire shard), each with its warning."""
    try:
        placed = read_header(store.local_path(name))
    except DamagedShard as error:
        store.remove(name)
        return [("", f"The cache file {name} in {store.describe()} {error}; its entries are encoded again.")]
    except FileNotFoundError:
        return []
    raw = read_raw(store.local_path(name), placed)
    pairs = zip(placed, raw, strict=True)
    damaged = dict.fromkeys(wanted.key for wanted, found in pairs if wanted.checksum != found.checksum)
    if damaged:
        _replace(store, name, raw, dropped=set(damaged))
    return [(key, _damage(store, name, key, describe(key))) for key in damaged]


def _damage(store: CacheStore, name: str, key: str, described: str | None) -> str:
    whose = described or f"entry {key} (nothing in this run uses it)"
    return f"The cached data of {whose} is damaged in {name} in {store.describe()}; it is encoded again when used."


def contents(tensors: TensorStore, *, used: Keys) -> CacheContents:
    """Count a store's entries, and those whose key is not among `used` [K]; only the index is read."""
    entries, size_bytes, unused_entries, unused_bytes = 0, 0, 0, 0
    for segment in tensors.segments:
        unused = ~np.isin(segment.keys, used)
        entries += len(np.unique(segment.keys))
        size_bytes += int(segment.lengths.sum())
        unused_entries += len(np.unique(segment.keys[unused]))
        unused_bytes += int(segment.lengths[unused].sum())
    return CacheContents(
        entries=entries, size_bytes=size_bytes, unused_entries=unused_entries, unused_bytes=unused_bytes
    )


def prune(store: CacheStore, *, used: Keys) -> CacheContents:
    """Remove the entries whose key is not among `used` [K]; returns the contents before. No run may use the store.

    Only shards with both kinds of entries are read and rewritten. A kill at any moment loses no used entry.
    """
    tensors = open_tensors(store)
    dropped: set[str] = set()
    for segment in tensors.segments:
        is_used = np.isin(segment.keys, used)
        keeping = set(segment.shard_names[np.unique(segment.shards[is_used])].tolist())
        for name in segment.shard_names[np.unique(segment.shards[~is_used])].tolist():
            dropped.add(name)
            if name in keeping:
                path = store.local_path(name)
                _write_kept(store, read_raw(path, read_header(path)), dropped=set(segment.keys[~is_used].tolist()))
    if dropped:
        open_tensors(store).without(dropped).compact()
    for name in dropped:
        store.remove(name)
    return contents(tensors, used=used)


def _replace(store: CacheStore, name: str, raw: list[RawTensor], *, dropped: set[str]) -> None:
    """Write a shard's other entries, if any, to a new shard, then remove it."""
    _write_kept(store, raw, dropped={key.encode() for key in dropped})
    store.remove(name)


def _write_kept(store: CacheStore, raw: list[RawTensor], *, dropped: set[bytes]) -> None:
    """Write a shard of the tensors whose key is not `dropped`, unless none is left."""
    kept = [tensor for tensor in raw if tensor.name[:32].encode() not in dropped]
    if kept:
        store.write(f"shard-kept-{uuid4().hex}{SUFFIX}", shard_bytes(kept))
