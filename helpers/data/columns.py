"""Columns of millions of strings, stored as one block of bytes and offsets instead of an object per string."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

TAKEN_AT_ONCE = 65_536


class BytesColumn(Sequence[bytes]):
    """Byte strings stored one after another in `block` [bytes]; item i lies between `offsets` [N + 1] i and i + 1."""

    def __init__(self, block: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.block = block
        self.offsets = offsets

    @classmethod
    def of(cls, items: Iterable[bytes]) -> "BytesColumn":
        """A column with copies of the items."""
        kept = list(items)
        offsets = np.zeros(len(kept) + 1, np.int64)
        np.cumsum([len(item) for item in kept], out=offsets[1:])
        return cls(np.frombuffer(b"".join(kept), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> "BytesColumn": ...
    def __getitem__(self, index: int | slice) -> "bytes | BytesColumn":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = range(len(self))[index]
        return self.block[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        view = self.block.data
        for start, end in pairwise(self.offsets.tolist()):
            yield bytes(view[start:end])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each item in bytes [N]."""
        return np.diff(self.offsets)

    @classmethod
    def joined(cls, columns: Sequence["BytesColumn"]) -> "BytesColumn":
        """The items of several columns, concatenated."""
        starts = np.cumsum([0] + [len(column.block) for column in columns])
        offsets = [column.offsets[:-1] + start for column, start in zip(columns, starts, strict=False)]
        return cls(np.concatenate([column.block for column in columns]), np.concatenate([*offsets, starts[-1:]]))

    def take(self, rows: NDArray[np.integer]) -> "BytesColumn":
        """The items at `rows`, in their order."""
        if np.array_equal(rows, np.arange(len(self))):
            return self
        starts, lengths = self.offsets[:-1][rows], self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        block = np.empty(offsets[-1], np.uint8)
        for first in range(0, len(rows), TAKEN_AT_ONCE):
            few = slice(first, first + TAKEN_AT_ONCE)
            begin, end = offsets[first], offsets[min(first + TAKEN_AT_ONCE, len(rows))]
            # A byte's source index is its target index, shifted by as much as its item moves.
            moves = np.repeat(starts[few] - offsets[:-1][few], lengths[few])
            block[begin:end] = self.block[np.arange(begin, end) + moves]
        return BytesColumn(block, offsets)


class TextColumn(Sequence[str]):
    """Strings stored as UTF-8; file names that are not UTF-8 keep their surrogate escapes."""

    def __init__(self, encoded: BytesColumn) -> None:
        self.encoded = encoded

    @classmethod
    def of(cls, items: Iterable[str]) -> "TextColumn":
        """A column with copies of the items."""
        return cls(BytesColumn.of(encode_name(item) for item in items))

    def __len__(self) -> int:
        return len(self.encoded)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "TextColumn": ...
    def __getitem__(self, index: int | slice) -> "str | TextColumn":
        if isinstance(index, slice):
            return TextColumn(self.encoded[index])
        return self.encoded[index].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for item in self.encoded:
            yield item.decode("utf-8", "surrogateescape")

    @classmethod
    def joined(cls, columns: Sequence["TextColumn"]) -> "TextColumn":
        """The items of several columns, concatenated."""
        return cls(BytesColumn.joined([column.encoded for column in columns]))

    def take(self, rows: NDArray[np.integer]) -> "TextColumn":
        """The items at `rows`, in their order."""
        return TextColumn(self.encoded.take(rows))


def encode_name(name: str) -> bytes:
    """The bytes of a file name, as on disk."""
    return name.encode("utf-8", "surrogateescape")


def printable(name: str) -> str:
    """A file name for messages: unchanged if printable, otherwise with special characters escaped."""
    return name if name.isprintable() else ascii(name)
