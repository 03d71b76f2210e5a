"""Opens the shards of a store as one thing: says what is missing, reads what is there, names what is damaged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from helpers.cache.index import INDEX_PREFIX, INDEX_SUFFIX, Segment, index_bytes, merged, read_index, segment_of
from helpers.cache.keys import Keys
from helpers.cache.shard import SUFFIX, DamagedShard, read_header, read_tensor
from helpers.errors import CacheError
from helpers.storage.protocols import CacheStore

# More files of the index than these are made one, so that a look-up stays quick.
SEGMENTS_AT_MOST = 8


@dataclass(frozen=True, kw_only=True)
class TensorStore:
    """What can be read of a store as it was when it was opened.

    segments: what the shards hold; damaged: shards that cannot be read, and why; gone: shards that the index remembers.
    stale: files of the index that no longer tell the truth. unindexed: whether the last segment is not on disk.
    """

    store: CacheStore
    segments: tuple[Segment, ...]
    damaged: Mapping[str, str]
    gone: tuple[str, ...]
    index_files: tuple[str, ...]
    stale: bool
    unindexed: bool

    def missing(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of `keys` [K] have no entry, [K]."""
        held = np.zeros(len(keys), dtype=np.bool_)
        for segment in self.segments:
            held |= segment.holds(keys)
        return ~held

    def shards_of(self, keys: Keys) -> list[str]:
        """The names of the shards that hold entries of `keys` [K]."""
        found: set[str] = set()
        for segment in self.segments:
            numbers = np.unique(segment.shards[np.isin(segment.keys, keys)])
            found.update(segment.shard_names[numbers].tolist())
        return sorted(found)

    def read(self, key: str) -> dict[str, Tensor]:
        """An entry's outputs by name, uncopied where they are not compressed.

        Raises KeyError where there is no such entry, CacheError where its shard vanished after the store was opened.
        """
        for segment in self.segments:
            if rows := segment.rows(key):
                return {segment.known_layouts[segment.layouts[row]].output: self._tensor(segment, row) for row in rows}
        raise KeyError(key)

    def problems(self) -> Iterator[str]:
        """A line about every shard whose entries have to be made again."""
        for name, reason in self.damaged.items():
            yield f"The cache file {name} in {self.store.describe()} {reason}; what it held is encoded again."
        for name in self.gone:
            yield f"The cache file {name} is gone from {self.store.describe()}; what it held is encoded again."

    def compact(self) -> None:
        """Remove damaged shards and bring the index up to date; for one process, once all entries are made again."""
        for name in self.damaged:
            self.store.remove(name)
        if self.stale or len(self.index_files) >= SEGMENTS_AT_MOST:
            if self.segments:
                self._write_index(merged(self.segments))
            for name in self.index_files:
                self.store.remove(name)
        elif self.unindexed:
            self._write_index(self.segments[-1])

    def _write_index(self, segment: Segment) -> None:
        self.store.write(f"{INDEX_PREFIX}{uuid4().hex}{INDEX_SUFFIX}", index_bytes(segment))

    def _tensor(self, segment: Segment, row: int) -> Tensor:
        name = str(segment.shard_names[segment.shards[row]])
        layout = segment.known_layouts[segment.layouts[row]]
        start, length = int(segment.starts[row]), int(segment.lengths[row])
        try:
            return read_tensor(self.store.local_path(name), start=start, length=length, layout=layout)
        except (OSError, ValueError) as error:
            raise CacheError(
                f"The cache file {name} in {self.store.describe()} changed or vanished while it was in use ({error}). "
                "Start again: what it held is encoded again."
            ) from error


def open_tensors(store: CacheStore) -> TensorStore:
    """Open a store: its index, and the headers of the shards that are not in it."""
    sizes = store.sizes()
    shards = {name: sizes[name] for name in sorted(sizes) if name.endswith(SUFFIX)}
    index_files = tuple(name for name in sorted(sizes) if name.startswith(INDEX_PREFIX))
    remembered = {name: read_index(store.local_path(name)) for name in index_files}
    segments = [segment for segment in remembered.values() if segment is not None]
    indexed = {name: size for segment in segments for name, size in segment.sizes().items()}
    new = {name: size for name, size in shards.items() if indexed.get(name) != size}
    present, damaged = _read_headers(store, new)
    changed = any(name not in shards or name in new for name in indexed)
    segments = [segment.only(shards) for segment in segments]
    if present:
        segments.append(segment_of(present, sizes=shards))
    return TensorStore(
        store=store,
        segments=tuple(segments),
        damaged=damaged,
        gone=tuple(name for name in indexed if name not in shards),
        index_files=index_files,
        stale=changed or None in remembered.values(),
        unindexed=bool(present),
    )


def _read_headers(store: CacheStore, names: Mapping[str, int]) -> tuple[dict, dict[str, str]]:
    """The headers of these shards, and what is wrong with the others; a shard removed meanwhile is in neither."""
    present, damaged = {}, {}
    for name in names:
        try:
            present[name] = read_header(store.local_path(name))
        except DamagedShard as error:
            damaged[name] = str(error)
        except FileNotFoundError:
            continue
    return present, damaged
