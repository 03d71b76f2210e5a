"""Reads tables about images from .parquet and .jsonl files, a batch of rows at a time, and only the columns named."""

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
"""No line of a .jsonl file may be longer than this."""


def read_table(file: Path | Callable[[], bytes], *, columns: TableColumns, name: str, where: str = "") -> ImageTable:
    """The table in a file of this machine, or in the bytes of one elsewhere; the ending of its `name` tells the format.

    where: goes on from the name in messages.

    Raises DataError where it cannot be read, lacks a column (naming those it has), or holds other things than texts and
    numbers in them.
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
    """Batches of a file with a JSON object in each line; the first lines tell the kinds of the columns."""
    import pyarrow as pa
    from pyarrow.json import ParseOptions, ReadOptions, open_json

    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        start = file.read(JSON_BLOCK_BYTES)
        lines = start.splitlines()[: 1 if start.count(b"\n") <= 1 else 100]
        try:
            first = [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise DataError(f"the table {place} is no .jsonl: its first lines are not JSON, one object each") from error
        if not all(isinstance(row, dict) for row in first):
            raise DataError(f"the table {place} is no .jsonl: its lines are not JSON objects")
        check_columns(wanted, list(dict.fromkeys(name for row in first for name in row)), place=place)
        schema = pa.schema([(name, _kind([row.get(name) for row in first])) for name in dict.fromkeys(wanted)])
        file.seek(0)
        parse = ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        yield from open_json(file, read_options=ReadOptions(block_size=JSON_BLOCK_BYTES), parse_options=parse)


def _kind(values: Sequence[Any]) -> "pyarrow.DataType":
    import pyarrow as pa

    said = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in said):
        return pa.list_(pa.string())
    if said and all(isinstance(value, int) for value in said):
        return pa.int64()
    return pa.float64() if said and all(isinstance(value, int | float) for value in said) else pa.string()


def check_columns(wanted: Sequence[str], there: Sequence[str], *, place: str) -> None:
    """Raise DataError where a wanted column is not there, naming those that are."""
    missing = [name for name in dict.fromkeys(wanted) if name not in there]
    if missing:
        names = ", ".join(missing)
        raise DataError(f"the table {place} has no column {names}; its columns are: {', '.join(map(str, there))}")


def _texts(batch: "pyarrow.RecordBatch", name: str, place: str) -> "pyarrow.Array":
    """A column of texts, or of whole numbers as texts; empty where null."""
    import pyarrow as pa

    pc = compute()
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (_is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"the table {place} has no texts in its column {name}, but {column.type}")
    return pc.fill_null(column.cast(pa.large_string()), "")


def _is_text(kind: "pyarrow.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _captions(batch: "pyarrow.RecordBatch", columns: TableColumns, place: str) -> "pyarrow.Array":
    """A row's captions in lines: those of the caption column, else those of the one to fall back on."""
    pc = compute()
    assert columns.caption_column
    captions = caption_lines(batch, columns.caption_column, place=place)
    if columns.fallback_caption_column:
        fallback = caption_lines(batch, columns.fallback_caption_column, place=place)
        captions = pc.if_else(pc.equal(captions, ""), fallback, captions)
    return captions


def caption_lines(batch: "pyarrow.RecordBatch", name: str, *, place: str) -> "pyarrow.Array":
    """The captions in a column of texts, or of lists of texts, as one text a row with a caption in each line.

    A caption's own line breaks become spaces; empty ones are left out.
    """
    import pyarrow as pa

    pc = compute()
    column = batch.column(name)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return in_one_line(_texts(batch, name, place))
    said = pa.RecordBatch.from_arrays([column.flatten()], [name])
    each = in_one_line(_texts(said, name, place))
    spoken = pc.not_equal(each, "")
    parents = pc.list_parent_indices(column).filter(spoken).to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(np.bincount(parents, minlength=len(column)), out=offsets[1:])
    return pc.binary_join(pa.LargeListArray.from_arrays(offsets, each.filter(spoken)), pa.scalar("\n", each.type))


def in_one_line(texts: "pyarrow.Array") -> "pyarrow.Array":
    pc = compute()
    if pc.any(pc.match_substring(texts, "\n")).as_py():
        texts = pc.replace_substring_regex(texts, r"\s*\n\s*", " ")
    return pc.utf8_trim_whitespace(texts)


def _edges(batch: "pyarrow.RecordBatch", name: str, place: str) -> np.ndarray:
    """A column of widths or heights in pixels [rows]; 0 where there is none, or no whole number."""
    import pyarrow as pa

    pc = compute()
    column = batch.column(name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"the table {place} has no numbers in its column {name}, but {column.type}")
    edges = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    whole = (edges == np.floor(edges)) & (edges > 0) & (edges < 2**31)
    return np.where(whole, edges, 0).astype(np.int32)
