"""Reads a table of URLs and captions with any delimiter, one block of lines at a time."""

import csv
import gzip
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from helpers.config.datasets.types import CsvDataset
from helpers.data.columns import TextColumn
from helpers.data.sources.image_table import ImageTable, as_arrow, compute, from_arrow
from helpers.data.sources.table_files import in_one_line
from helpers.errors import DataError
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.downloads import DownloadedSource, Downloads, name_of
from helpers.storage.http import FetchLimits
from helpers.storage.protocols import SourceStore

logger = logging.getLogger(__name__)

USUAL_DELIMITERS = ",;\t|"
ROWS_AT_ONCE = 65_536
GZIP_MAGIC = b"\x1f\x8b"


def read_urls(path: Path, *, url_column: str, caption_column: str | None) -> tuple[TextColumn, ImageTable]:
    """The unique URLs of a table, ordered by name, and the table by name, with its captions.

    If several rows have the same URL, all their captions belong to it. Raises DataError if the file cannot be read or
    a column is missing (naming the existing ones).
    """
    urls, names, captions = [], [], []
    for rows in _blocks(path, [name for name in (url_column, caption_column) if name]):
        columns = [TextColumn.of(cells) for cells in zip(*rows, strict=True)]
        urls.append(as_arrow(columns[0]))
        names.append(as_arrow(TextColumn.of(map(name_of, columns[0]))))
        captions += [as_arrow(column) for column in columns[1:]]
    all_names = from_arrow(names)
    order, firsts = _sorted(all_names)
    table = ImageTable(
        place=f"the table {path}",
        names=all_names.take(order[firsts]),
        captions=_joined(from_arrow(captions), order, firsts) if caption_column else None,
    )
    return from_arrow(urls).take(order[firsts]), table


def _blocks(path: Path, wanted: Sequence[str]) -> Iterator[list[list[str]]]:
    """The cells of the wanted columns, by row, in blocks; rows whose first cell is empty are skipped."""
    reader = None
    try:
        with _open(path) as file:
            header = file.readline()
            delimiter = _delimiter(header, wanted[0])
            names = next(csv.reader([header], delimiter=delimiter), [])
            if missing := [name for name in wanted if name not in names]:
                there = ", ".join(names)
                raise DataError(f"the table {path} has no column {', '.join(missing)}; its columns are: {there}")
            places = [names.index(name) for name in wanted]
            reader, skipped = csv.reader(file, delimiter=delimiter), 0
            while rows := list(islice(reader, ROWS_AT_ONCE)):
                found = [[row[place].strip() for place in places] for row in rows if len(row) > max(places)]
                found = [cells for cells in found if cells[0]]
                skipped += len(rows) - len(found)
                yield found
            if skipped:
                logger.warning("the table %s has %d rows without a URL, which are skipped", path, skipped)
    except UnicodeDecodeError as error:
        raise DataError(f"the table {path} is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(
            f"the table {path} cannot be read: {error} (line {reader.line_num + 1 if reader else 1})"
        ) from error
    except (OSError, EOFError) as error:
        raise DataError(f"the table {path} cannot be read: {error}") from error


def _open(path: Path) -> TextIO:
    with path.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    if compressed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _delimiter(header: str, url_column: str) -> str:
    """The delimiter that gives the most columns, one of them the URL column; may be any character next to its name."""
    place = header.find(url_column)
    adjacent = header[place + len(url_column) :].lstrip('"')[:1] + header[:place].rstrip('"')[-1:] if place >= 0 else ""
    odd = "".join(character for character in adjacent if not character.isalnum() and character not in '_- "\r\n')

    def columns(delimiter: str) -> tuple[bool, int]:
        names = next(csv.reader([header], delimiter=delimiter), [])
        return url_column in names, len(names)

    return max(USUAL_DELIMITERS + odd, key=columns)


def _sorted(names: TextColumn) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The stable sort order of the names [N], and the positions in it where a new name begins."""
    pc = compute()
    column = as_arrow(names)
    order = pc.array_sort_indices(column).to_numpy().astype(np.int64)
    ordered = column.take(order)
    another = np.ones(len(order), bool)
    if len(order):
        another[1:] = pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(zero_copy_only=False)
    return order, np.flatnonzero(another)


def _joined(captions: TextColumn, order: NDArray[np.int64], firsts: NDArray[np.int64]) -> TextColumn:
    """The captions of each name, in lines, without empty ones."""
    import pyarrow as pa

    pc = compute()
    each = in_one_line(as_arrow(captions).cast(pa.large_string())).take(order)
    filled = pc.not_equal(each, "").to_numpy(zero_copy_only=False)
    counts = np.add.reduceat(filled, firsts, dtype=np.int64) if len(firsts) else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    lists = pa.LargeListArray.from_arrays(offsets, each.filter(pa.array(filled)))
    return from_arrow([pc.binary_join(lists, pa.scalar("\n", each.type))])


def open_downloaded(
    dataset: CsvDataset, *, ask: bool, at_once: int, reporter: Reporter, limits: FetchLimits | None = None
) -> tuple[SourceStore, ImageTable]:
    """The images at a table's URLs, and the table.

    ask: whether to download missing images, `at_once` at a time; otherwise only existing files are used.
    Raises DataError if the table cannot be read or the network is down, CacheError if a file cannot be written.
    """
    caption_column = dataset.csv_caption_column if dataset.caption_strategy == "csv" else None
    urls, table = read_urls(dataset.csv_file, url_column=dataset.csv_url_column, caption_column=caption_column)
    downloads = Downloads(dataset.csv_cache_dir)
    missing = downloads.missing(table.names, retry_failed=dataset.csv_retry_failed) if ask else []
    if missing:
        with stage(reporter, f"download images of {dataset.id}", total=len(missing), unit="images") as advance:
            downloads.download(
                ((table.names[place], urls[place]) for place in missing),
                at_once=at_once,
                limits=limits or FetchLimits(),
                advance=advance,
            )
        downloads = Downloads(dataset.csv_cache_dir)
    return DownloadedSource(downloads, names=table.names, place=table.place), table
