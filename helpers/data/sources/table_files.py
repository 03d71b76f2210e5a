"""Reads the needed columns of .parquet and .jsonl tables about images, one batch of rows at a time."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.config.datasets.types import TableColumns
from helpers.data.sources.image_table import ImageTable, compute, from_arrow
from helpers.errors import DataError

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 65_536
JSON_BLOCK_BYTES = 8 << 20
"""The maximum length of a line of a .jsonl file."""


def read_table(file: Path | Callable[[], bytes], *, columns: TableColumns, name: str, where: str = "") -> ImageTable:
    """The table in a local file, or in the bytes that `file` returns; the extension of `name` gives the format.

    where: follows the name in messages.

    Raises DataError if it cannot be read, a column is missing (naming the existing ones), or a column has the wrong
    type.
    """
    import pyarrow as pa

    wanted = [columns.filename_column, columns.caption_column, columns.fallback_caption_column]
    wanted += [columns.width_column, columns.height_column]
    place, names, captions, sizes = name + where, [], [], []
    try:
        content = file if isinstance(file, Path) else file()
        read = _json_batches if name.endswith(".jsonl") else _parquet_batches
        for batch in read(content, [name for name in wanted if name], place):
            names.append(_texts(batch, columns.filename_column, place))
            if columns.caption_column:
                captions.append(_captions(batch, columns, place))
            if columns.width_column and columns.height_column:
                edges = [_edges(batch, name, place) for name in (columns.width_column, columns.height_column)]
                sizes.append(np.stack(edges, axis=1))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"the table {place} cannot be read: {error}") from error
    return ImageTable(
        place=f"the table {place}",
        names=from_arrow(names),
        names_have_endings=columns.identifier_includes_extension,
        sizes=np.concatenate([np.zeros((0, 2), np.int32), *sizes]) if columns.width_column else None,
        captions=from_arrow(captions) if columns.caption_column else None,
    )


def _parquet_batches(content: Path | bytes, wanted: Sequence[str], place: str) -> "Iterator[pyarrow.RecordBatch]":
    from pyarrow.parquet import ParquetFile

    with ParquetFile(content if isinstance(content, Path) else io.BytesIO(content)) as file:
        check_columns(wanted, file.schema_arrow.names, place=place)
        yield from file.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(dict.fromkeys(wanted)))


def _json_batches(content: Path | bytes, wanted: Sequence[str], place: str) -> "Iterator[pyarrow.RecordBatch]":
    """Batches of a file with a JSON object per line; the first lines determine the types of the columns."""
    import pyarrow as pa
    from pyarrow.json import ParseOptions, ReadOptions, open_json

    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        start = file.read(JSON_BLOCK_BYTES)
        lines = start.splitlines()[: 1 if start.count(b"\n") <= 1 else 100]
        try:
            first = [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            message = f"the table {place} is not a .jsonl file: its first lines are not one JSON object each"
            raise DataError(message) from error
        if not all(isinstance(row, dict) for row in first):
            raise DataError(f"the table {place} is not a .jsonl file: its lines are not JSON objects")
        check_columns(wanted, list(dict.fromkeys(name for row in first for name in row)), place=place)
        schema = pa.schema([(name, _kind([row.get(name) for row in first])) for name in dict.fromkeys(wanted)])
        file.seek(0)
        parse = ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        yield from open_json(file, read_options=ReadOptions(block_size=JSON_BLOCK_BYTES), parse_options=parse)


def _kind(values: Sequence[Any]) -> "pyarrow.DataType":
    import pyarrow as pa

    present = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in present):
        return pa.list_(pa.string())
    if present and all(isinstance(value, int) for value in present):
        return pa.int64()
    return pa.float64() if present and all(isinstance(value, int | float) for value in present) else pa.string()


def check_columns(wanted: Sequence[str], there: Sequence[str], *, place: str) -> None:
    """Raise DataError if a wanted column is missing, naming the existing columns."""
    missing = [name for name in dict.fromkeys(wanted) if name not in there]
    if missing:
        names = ", ".join(missing)
        raise DataError(f"the table {place} has no column {names}; its columns are: {', '.join(map(str, there))}")


def _texts(batch: "pyarrow.RecordBatch", name: str, place: str) -> "pyarrow.Array":
    """A column of strings, or of integers as strings; empty where null."""
    import pyarrow as pa

    pc = compute()
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (_is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"the column {name} of the table {place} must hold text, but holds {column.type}")
    return pc.fill_null(column.cast(pa.large_string()), "")


def _is_text(kind: "pyarrow.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _captions(batch: "pyarrow.RecordBatch", columns: TableColumns, place: str) -> "pyarrow.Array":
    """The captions of each row, in lines: from the caption column, or the fallback column if that is empty."""
    pc = compute()
    assert columns.caption_column
    captions = caption_lines(batch, columns.caption_column, place=place)
    if columns.fallback_caption_column:
        fallback = caption_lines(batch, columns.fallback_caption_column, place=place)
        captions = pc.if_else(pc.equal(captions, ""), fallback, captions)
    return captions


def caption_lines(batch: "pyarrow.RecordBatch", name: str, *, place: str) -> "pyarrow.Array":
    """The captions in a column of strings, or of lists of strings, as one string per row with a caption per line.

    Line breaks within a caption become spaces; empty captions are left out.
    """
    import pyarrow as pa

    pc = compute()
    column = batch.column(name)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return in_one_line(_texts(batch, name, place))
    flat = pa.RecordBatch.from_arrays([column.flatten()], [name])
    each = in_one_line(_texts(flat, name, place))
    filled = pc.not_equal(each, "")
    parents = pc.list_parent_indices(column).filter(filled).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(np.bincount(parents, minlength=len(column)), out=offsets[1:])
    return pc.binary_join(pa.LargeListArray.from_arrays(offsets, each.filter(filled)), pa.scalar("\n", each.type))


def in_one_line(texts: "pyarrow.Array") -> "pyarrow.Array":
    pc = compute()
    if pc.any(pc.match_substring(texts, "\n")).as_py():
        texts = pc.replace_substring_regex(texts, r"\s*\n\s*", " ")
    return pc.utf8_trim_whitespace(texts)


def _edges(batch: "pyarrow.RecordBatch", name: str, place: str) -> np.ndarray:
    """A column of widths or heights in pixels [rows]; 0 if missing or not a positive integer."""
    import pyarrow as pa

    pc = compute()
    column = batch.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"the column {name} of the table {place} must hold numbers, but holds {column.type}")
    edges = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    whole = (edges == np.floor(edges)) & (edges > 0) & (edges < 2**31)
    return np.where(whole, edges, 0).astype(np.int32)
