"""Where every entry lies, as sorted columns, so that a store of 100,000 entries opens without reading 800 headers.

An index is derived from the shards' headers and can be lost: it is made again. It comes in segments, each for some of
the shards, so that adding one entry does not rewrite what is known of all the others.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from helpers.cache.keys import KEY_DTYPE, Keys
from helpers.cache.shard import Layout, PlacedTensor, layout_of

INDEX_PREFIX, INDEX_SUFFIX = "index-", ".npz"
COLUMNS = ("keys", "shards", "layouts", "starts", "lengths")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The tensors of some shards, by column, ordered by key; an entry has one row for each of its outputs.

    keys: [N]; shards, layouts: [N], numbers in `shard_names` and `layout_names`; starts, lengths: [N], in bytes from
    the file's beginning. shard_names, shard_sizes: [S], the sizes in bytes. layout_names: each a Layout as JSON.
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
        """The rows of an entry; none where it is not here."""
        sought = np.array(key, dtype=KEY_DTYPE)
        return range(int(np.searchsorted(self.keys, sought, "left")), int(np.searchsorted(self.keys, sought, "right")))

    @cached_property
    def known_layouts(self) -> tuple[Layout, ...]:
        """The layouts that `layouts` numbers."""
        loaded = (json.loads(name) for name in self.layout_names.tolist())
        return tuple(Layout(output, dtype, tuple(shape), packed) for output, dtype, shape, packed in loaded)

    def sizes(self) -> dict[str, int]:
        """The bytes of each shard when it was indexed."""
        return dict(zip(self.shard_names.tolist(), self.shard_sizes.tolist(), strict=True))

    def only(self, shards: Mapping[str, int]) -> "Segment":
        """This segment without the shards that are not among `shards`, or have another size there."""
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
    """The segment of shards whose headers were just read; `sizes`: their bytes."""
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
    """One segment of all that several hold."""
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
    """A segment as a file's content."""
    content = io.BytesIO()
    np.savez(content, **{name: getattr(segment, name) for name in Segment.__dataclass_fields__})
    return content.getvalue()


def read_index(path: Path) -> Segment | None:
    """The segment in a file; None where it is gone or damaged, as it can be made again."""
    try:
        with np.load(path, allow_pickle=False) as columns:
            return Segment(**{name: columns[name] for name in Segment.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
