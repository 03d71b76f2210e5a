"""Looks after the shards: names what is damaged, finds flipped bytes, removes what nothing uses any more."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import numpy as np

from helpers.cache.keys import KEY_DTYPE, Keys
from helpers.cache.shard import SUFFIX, DamagedShard, PlacedTensor, RawTensor, read_header, read_raw, shard_bytes
from helpers.cache.store import INDEX_PREFIX, TensorStore, open_tensors
from helpers.ranks import Ranks
from helpers.reporting.events import Notice
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore

FETCHES_AT_ONCE = 8

# Words for the image or caption behind a key; None where it is not known.
Describe = Callable[[str], str | None]


@dataclass(frozen=True, kw_only=True)
class Unused:
    """What a store holds that nothing wants."""

    entries: int
    size_bytes: int


def open_and_check(
    store: CacheStore, *, scan_for_errors: bool, describe: Describe, ranks: Ranks, reporter: Reporter
) -> TensorStore:
    """Open a store to fill it, and name every damaged or vanished shard in a warning.

    scan_for_errors: compare every entry with its checksum too, each rank a share of the shards.
    """
    tensors = open_tensors(store)
    for problem in tensors.problems():
        reporter.handle(Notice(text=problem, level="warning"))
    if not scan_for_errors:
        return tensors
    ranks.barrier()  # what one rank takes out must not look lost to another
    verify(tensors, share=slice(ranks.rank, None, ranks.world_size), describe=describe, reporter=reporter)
    ranks.barrier()
    return open_tensors(store)


def finalize(store: CacheStore, *, ranks: Ranks) -> TensorStore:
    """Wait for all ranks' entries, have one of them tidy up, and open what is now there."""
    ranks.barrier()
    if ranks.rank == 0:
        open_tensors(store).compact()
    ranks.barrier()
    return open_tensors(store)


def download_missing(tensors: TensorStore, keys: Keys, *, ranks: Ranks, reporter: Reporter) -> None:
    """Fetch the shards of `keys` [K] that are only far away, so that training does not wait for them; ranks share."""
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
    """Compare every entry of a share of the shards with its checksum, and take the damaged ones out of their shards.

    share: of the sorted names of the shards, so that ranks divide them. Returns the keys taken out; each is named in a
    warning, and so is a shard whose header cannot be read, which is removed.
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
    """Repair one shard; the damaged entries' keys ("" for the whole shard), each with what to say of it."""
    try:
        placed = read_header(store.local_path(name))
    except DamagedShard as error:
        store.remove(name)
        return [("", f"The cache file {name} in {store.describe()} {error}; what it held is encoded again.")]
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


def unused(store: CacheStore, *, wanted: Keys) -> Unused:
    """Count the entries whose key is not among `wanted` [K]."""
    entries, size_bytes = 0, 0
    for _, placed in _shards(store):
        dropped = _unwanted(placed, wanted)
        entries += len(dropped)
        size_bytes += sum(tensor.stop - tensor.start for tensor in placed if tensor.key in dropped)
    return Unused(entries=entries, size_bytes=size_bytes)


def prune(store: CacheStore, *, wanted: Keys) -> Unused:
    """Remove the entries whose key is not among `wanted` [K] and say how many; not while a run is using the store."""
    found = unused(store, wanted=wanted)
    for name in store.sizes():
        if name.startswith(INDEX_PREFIX):
            store.remove(name)  # it would remember the shards as lost; it is made again from their headers
    for name, placed in _shards(store):
        if dropped := _unwanted(placed, wanted):
            _replace(store, name, read_raw(store.local_path(name), placed), dropped=dropped)
    return found


def _shards(store: CacheStore) -> Iterator[tuple[str, list[PlacedTensor]]]:
    """Every shard whose header can be read; the next run names the others."""
    for name in sorted(store.sizes()):
        if name.endswith(SUFFIX):
            try:
                yield name, read_header(store.local_path(name))
            except DamagedShard:
                continue


def _unwanted(placed: list[PlacedTensor], wanted: Keys) -> set[str]:
    keys = np.array([tensor.key for tensor in placed], dtype=KEY_DTYPE)
    return {key.decode() for key in keys[~np.isin(keys, wanted)].tolist()}


def _replace(store: CacheStore, name: str, raw: list[RawTensor], *, dropped: set[str]) -> None:
    """Write the shard's other entries under a new name, unless there are none, and then remove the shard."""
    kept = [tensor for tensor in raw if tensor.name[:32] not in dropped]
    if kept:
        store.write(f"shard-kept-{uuid4().hex}{SUFFIX}", shard_bytes(kept))
    store.remove(name)
