"""A table about images, by column (names, sizes, captions), and how its rows match files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from helpers.data.columns import BytesColumn, TextColumn, printable
from helpers.errors import DataError

if TYPE_CHECKING:
    import pyarrow

NO_ROW = -1
ENDING = r"\.[^./]*$"
NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Rows about images.

    place: the table, for messages;
    names: file names as the dataset lists them [M], without extensions unless `names_have_endings`;
    sizes: upright width and height [M, 2], 0 if missing; None without such columns;
    captions: the captions of each row, one per line [M], empty if there are none; None without such a column.
    """

    place: str
    names: TextColumn
    names_have_endings: bool = True
    sizes: NDArray[np.int32] | None = None
    captions: TextColumn | None = None

    def rows_of(self, paths: TextColumn) -> NDArray[np.int64]:
        """The first row about each file of `paths` [N], NO_ROW if there is none."""
        pc = compute()
        names = as_arrow(paths)
        if not self.names_have_endings:
            names = pc.replace_substring_regex(names, ENDING, "")
        rows = pc.fill_null(pc.index_in(names, value_set=as_arrow(self.names)), NO_ROW)
        return rows.to_numpy(zero_copy_only=False).astype(np.int64)

    def captions_of(self, rows: NDArray[np.int64]) -> TextColumn:
        """The captions at `rows` [N], in lines; empty for NO_ROW."""
        assert self.captions is not None, "settings that ask for captions have named their column"
        encoded = self.captions.encoded
        with_nothing = BytesColumn(encoded.block, np.append(encoded.offsets, encoded.offsets[-1:]))
        return TextColumn(with_nothing.take(rows))  # NO_ROW is the last item, which is empty

    def sizes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """The sizes [N, 2] at `rows` [N]; 0 x 0 if missing."""
        assert self.sizes is not None, "settings that ask for sizes have named their columns"
        sizes = np.append(self.sizes, np.zeros((1, 2), np.int32), axis=0)[rows]  # NO_ROW is the last item
        sizes[(sizes <= 0).any(axis=1)] = 0
        return sizes

    def no_names_in_common(self, paths: TextColumn, *, dataset_id: str, source: str) -> DataError:
        """The error if no file has a row, with example names of both."""
        fix = "remove" if self.names_have_endings else "set"
        return DataError(
            f"dataset {dataset_id!r}: none of the {len(self.names)} names in {self.place} matches a file in "
            f"{source}.\n  names in the table: {_some(self.names)}\n  files: {_some(paths)}\n"
            f"Change filename_column, or {fix} identifier_includes_extension; names are paths relative to the "
            "dataset's folder."
        )


def compute() -> Any:
    """The module `pyarrow.compute`; it creates its functions at import time, so type checkers do not know them."""
    import pyarrow.compute

    return pyarrow.compute


def as_arrow(column: TextColumn) -> "pyarrow.Array":
    """The column's bytes as an Arrow array, without a copy."""
    import pyarrow as pa

    encoded = column.encoded
    buffers = [None, pa.py_buffer(encoded.offsets), pa.py_buffer(encoded.block)]
    return pa.Array.from_buffers(pa.large_binary(), len(encoded), buffers)


def from_arrow(chunks: "Iterable[pyarrow.Array]") -> TextColumn:
    """A column of Arrow string arrays (large strings without nulls), copied and concatenated."""
    columns = [BytesColumn.of(())]
    for chunk in chunks:
        _, offsets, content = chunk.buffers()
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        block = np.frombuffer(content or b"", np.uint8)[ends[0] : ends[-1]]
        columns.append(BytesColumn(block, ends - ends[0]))
    return TextColumn(BytesColumn.joined(columns))


def _some(names: TextColumn) -> str:
    shown = ", ".join(printable(name) for name in names[:NAMES_SHOWN])
    return shown + (", …" if len(names) > NAMES_SHOWN else "")
