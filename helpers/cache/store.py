"""Opens the shards of a store as one: which entries are missing, what an entry holds, which shards are damaged.

An index lists where every entry is, as sorted columns, so that a store of 100,000 entries opens without reading 800
headers. It is derived from the shards' headers; if it is lost, it is built again. It is split into segments, each for
some of the shards, so that adding one entry does not rewrite the rest.
"""

import io
import json
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from helpers.cache.keys import KEY_DTYPE, Keys
from helpers.cache.shard import SUFFIX, DamagedShard, Layout, PlacedTensor, layout_of, read_header, read_tensor
from helpers.errors import CacheError
from helpers.models.family import TextEncoderSpec, VaeSpec
from helpers.storage.protocols import CacheStore

# More index files than these are merged into one, so that look-ups stay fast.
SEGMENTS_AT_MOST = 8
INDEX_PREFIX, INDEX_SUFFIX = "index-", ".npz"
COLUMNS = ("keys", "shards", "layouts", "starts", "lengths")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The tensors of some shards, as columns sorted by key; an entry has one row for each of its outputs.

    keys: [N]; shards, layouts: [N], indices in `shard_names` and `layout_names`; starts, lengths: [N], in bytes from
    the start of the file. shard_names, shard_sizes: [S], the sizes in bytes. layout_names: each a Layout as JSON.
    """

    keys: Keys
    shards: NDArray[np.int32]
    layouts: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    shard_names: NDArray[np.str_]
    shard_sizes: NDArray[np.int64]
    layout_names: NDArray[np.str_]

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of `keys` [K] are here, [K]."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.bool_)
        rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[rows] == keys

    def rows(self, key: str) -> range:
        """The rows of an entry; empty if it is not here."""
        sought = np.array(key, dtype=KEY_DTYPE)
        return range(int(np.searchsorted(self.keys, sought, "left")), int(np.searchsorted(self.keys, sought, "right")))

    @cached_property
    def known_layouts(self) -> tuple[Layout, ...]:
        """The layouts that `layouts` refers to."""
        loaded = (json.loads(name) for name in self.layout_names.tolist())
        return tuple(Layout(output, dtype, tuple(shape), packed) for output, dtype, shape, packed in loaded)

    def sizes(self) -> dict[str, int]:
        """The size of each shard in bytes when it was indexed."""
        return dict(zip(self.shard_names.tolist(), self.shard_sizes.tolist(), strict=True))

    def only(self, shards: Mapping[str, int]) -> "Segment":
        """This segment without the shards that are not in `shards` or have another size there."""
        kept = np.array([shards.get(name) == size for name, size in self.sizes().items()], dtype=np.bool_)
        if kept.all():
            return self
        columns = {name: getattr(self, name)[kept[self.shards]] for name in COLUMNS}
        columns["shards"] = (np.cumsum(kept, dtype=np.int32) - 1)[columns["shards"]]
        return Segment(
            **columns,
            shard_names=self.shard_names[kept],
            shard_sizes=self.shard_sizes[kept],
            layout_names=self.layout_names,
        )


def segment_of(shards: Mapping[str, Sequence[PlacedTensor]], *, sizes: Mapping[str, int]) -> Segment:
    """The segment of shards from their headers; `sizes`: in bytes."""
    layouts: dict[Layout, int] = {}
    keys, numbers, kinds, starts, lengths = [], [], [], [], []
    for number, tensors in enumerate(shards.values()):
        for tensor in tensors:
            layout = layout_of(tensor.name, dtype=tensor.dtype, shape=tensor.shape)
            keys.append(tensor.key)
            numbers.append(number)
            kinds.append(layouts.setdefault(layout, len(layouts)))
            starts.append(tensor.start)
            lengths.append(tensor.stop - tensor.start)
    unordered = Segment(
        keys=np.array(keys, dtype=KEY_DTYPE),
        shards=np.array(numbers, dtype=np.int32),
        layouts=np.array(kinds, dtype=np.int32),
        starts=np.array(starts, dtype=np.int64),
        lengths=np.array(lengths, dtype=np.int64),
        shard_names=np.array(list(shards), dtype=np.str_),
        shard_sizes=np.array([sizes[name] for name in shards], dtype=np.int64),
        layout_names=np.array([json.dumps(layout) for layout in layouts], dtype=np.str_),
    )
    return _ordered(unordered)


def merged(segments: Iterable[Segment]) -> Segment:
    """Several segments as one."""
    parts = tuple(segments)
    shard_offsets = np.cumsum([0, *(len(part.shard_names) for part in parts)])
    layout_offsets = np.cumsum([0, *(len(part.layout_names) for part in parts)])
    offsets = {"shards": shard_offsets, "layouts": layout_offsets}

    def joined(name: str) -> NDArray:
        columns = [getattr(part, name) for part in parts]
        if name in offsets:
            columns = [column + np.int32(offset) for column, offset in zip(columns, offsets[name][:-1], strict=True)]
        return np.concatenate(columns)

    return _ordered(Segment(**{name: joined(name) for name in Segment.__dataclass_fields__}))


def _ordered(segment: Segment) -> Segment:
    order = np.argsort(segment.keys, kind="stable")
    columns = {name: getattr(segment, name)[order] for name in COLUMNS}
    rest = {name: getattr(segment, name) for name in ("shard_names", "shard_sizes", "layout_names")}
    return Segment(**columns, **rest)


def index_bytes(segment: Segment) -> bytes:
    """The content of a segment's file."""
    content = io.BytesIO()
    np.savez(content, **{name: getattr(segment, name) for name in Segment.__dataclass_fields__})
    return content.getvalue()


def read_index(path: Path) -> Segment | None:
    """The segment in a file; None if it is missing or damaged, as it can be rebuilt."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            return Segment(**{name: columns[name] for name in Segment.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


@dataclass(frozen=True, kw_only=True)
class TensorStore:
    """A store as it was when it was opened.

    segments: what the shards hold. damaged: shards that cannot be read, and why. gone: shards in the index that no
    longer exist. stale: whether the index on disk is wrong. unindexed: whether the last segment is not on disk.
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

    def keys_held(self, keys_of: Callable[[str], Keys], *, encoder: TextEncoderSpec | VaeSpec) -> Keys:
        """The keys [N] of entries, which `keys_of` makes with an identity of the encoder.

        An entry that is missing under the encoder's identity has the key that an earlier version gave it, if that is
        here.
        """
        keys = keys_of(encoder.identity)
        missing = self.missing(keys)
        if missing.any():
            for identity in encoder.earlier_identities():
                earlier = keys_of(identity)
                found = missing & ~self.missing(earlier)
                keys = np.where(found, earlier, keys)
                missing &= ~found
        return keys

    def shards_of(self, keys: Keys) -> list[str]:
        """The names of the shards that hold entries of `keys` [K]."""
        found: set[str] = set()
        for segment in self.segments:
            numbers = np.unique(segment.shards[np.isin(segment.keys, keys)])
            found.update(segment.shard_names[numbers].tolist())
        return sorted(found)

    def read(self, key: str) -> dict[str, Tensor]:
        """An entry's outputs by name, not copied unless they are compressed.

        Raises KeyError if there is no such entry, CacheError if its shard vanished after the store was opened.
        """
        for segment in self.segments:
            if rows := segment.rows(key):
                return {segment.known_layouts[segment.layouts[row]].output: self._tensor(segment, row) for row in rows}
        raise KeyError(key)

    def read_first(self, keys: Iterable[str]) -> dict[str, Tensor]:
        """The outputs of the first of `keys` that has an entry; raises what `read` does."""
        for key in keys:
            with suppress(KeyError):
                return self.read(key)
        raise KeyError

    def problems(self) -> Iterator[str]:
        """A line about every shard whose entries have to be encoded again."""
        for name, reason in self.damaged.items():
            yield f"The cache file {name} in {self.store.describe()} {reason}; its entries are encoded again."
        for name in self.gone:
            yield f"The cache file {name} is gone from {self.store.describe()}; its entries are encoded again."

    def without(self, shards: Collection[str]) -> "TensorStore":
        """The store without some shards, which are about to be removed; `compact` then writes an index without them."""
        present = {name: size for segment in self.segments for name, size in segment.sizes().items()}
        kept = {name: size for name, size in present.items() if name not in shards}
        segments = tuple(segment.only(kept) for segment in self.segments)
        return replace(self, segments=segments, damaged={}, stale=True)

    def compact(self) -> None:
        """Remove damaged shards and update the index; for one process, after the entries are encoded again."""
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
                "Start again: its entries are encoded again."
            ) from error


def open_tensors(store: CacheStore) -> TensorStore:
    """Open a store: read its index, and the headers of the shards that the index lacks."""
    sizes = store.sizes()
    shards = {name: sizes[name] for name in sorted(sizes) if name.endswith(SUFFIX)}
    index_files = tuple(name for name in sorted(sizes) if name.startswith(INDEX_PREFIX))
    indices = {name: read_index(store.local_path(name)) for name in index_files}
    segments = [segment for segment in indices.values() if segment is not None]
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
        stale=changed or None in indices.values(),
        unindexed=bool(present),
    )


def _read_headers(store: CacheStore, names: Mapping[str, int]) -> tuple[dict, dict[str, str]]:
    """The headers of these shards, and what is wrong with the damaged ones; a shard removed meanwhile is in neither."""
    present, damaged = {}, {}
    for name in names:
        try:
            present[name] = read_header(store.local_path(name))
        except DamagedShard as error:
            damaged[name] = str(error)
        except FileNotFoundError:
            continue
    return present, damaged
