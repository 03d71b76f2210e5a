"""Images in the rows of parquet files, as on the Hugging Face hub, read a few rows at a time."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from helpers.config.datasets.types import HuggingFaceDataset
from helpers.data.columns import TextColumn
from helpers.data.sources.image_table import ImageTable, compute, from_arrow
from helpers.data.sources.table_files import caption_lines, check_columns
from helpers.errors import DataError
from helpers.storage.protocols import SIZE_UNKNOWN, FileMissing, Listed, SourceStore

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 16
BATCHES_KEPT = 16
GROUPS_OPEN = 3
CAPTIONS_AT_ONCE = 65_536
USUAL_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """A parquet file: its path relative to the folder, the first row of each row group [G + 1], and its tag."""

    name: str
    path: Path
    starts: tuple[int, ...]
    tag: str

    @property
    def rows(self) -> int:
        return self.starts[-1]

    def names(self) -> Iterator[str]:
        """The names of its rows, in row order, which is also their alphabetical order."""
        digits = len(str(self.rows - 1))
        return (f"{self.name}#{row:0{digits}}" for row in range(self.rows))


def open_embedded(dataset: HuggingFaceDataset, *, folder: Path) -> tuple[SourceStore, ImageTable]:
    """The images in the parquet files of the dataset's split in `folder`, and the table of captions.

    Raises DataError if there are no such files or a column is missing (naming the existing ones).
    """
    shards = tuple(_shard(path, folder, dataset) for path in files_of_split(folder, dataset.split))
    table = ImageTable(
        place=f"the parquet files of {dataset.dataset_name}",
        names=TextColumn.of(name for shard in shards for name in shard.names()),
        captions=_captions(shards, dataset.caption_column) if dataset.caption_strategy == "huggingface" else None,
    )
    return EmbeddedSource(shards, column=dataset.image_column, place=f"the folder {folder}"), table


def files_of_split(folder: Path, split: str | None) -> list[Path]:
    """The parquet files of a split: those in a folder of that name, or whose name begins with it.

    Without a split: those of `train`, or all files if none names a split. Raises DataError if there are none.
    """
    files = sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith("."))
    by_file = {path: _words(path.relative_to(folder)) for path in files}
    named = any(word in USUAL_SPLITS for words in by_file.values() for word in words)
    wanted = split or ("train" if named else None)
    found = [path for path, words in by_file.items() if wanted is None or wanted in words]
    if found:
        return found
    found_names = ", ".join(str(path.relative_to(folder)) for path in files[:5]) or "none"
    which = f"of the split {wanted!r} " if wanted else ""
    raise DataError(
        f"there are no .parquet files {which}in {folder}; found: {found_names}. Change split or dataset_name."
    )


def _words(path: Path) -> set[str]:
    """Words that can name a split: `train` in `data/train-00000-of-00002.parquet` or `default/train/0000.parquet`."""
    return {*path.parts[:-1], path.name.split("-")[0].split(".")[0]}


def _shard(path: Path, folder: Path, dataset: HuggingFaceDataset) -> Shard:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            wanted = [dataset.image_column]
            wanted += [dataset.caption_column] if dataset.caption_strategy == "huggingface" else []
            check_columns(wanted, file.schema_arrow.names, place=str(path))
            _check_kind(file.schema_arrow.field(dataset.image_column).type, dataset.image_column, path)
            groups = (file.metadata.row_group(number).num_rows for number in range(file.num_row_groups))
            starts = np.cumsum([0, *groups]).tolist()
        status = path.stat()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as a parquet file: {error}") from error
    return Shard(path.relative_to(folder).as_posix(), path, tuple(starts), f"{status.st_size}-{status.st_mtime_ns}")


def _check_kind(kind: "pyarrow.DataType", name: str, path: Path) -> None:
    import pyarrow as pa

    if pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"the column {name} of {path} must hold images, but holds {kind}; change image_column")


def _captions(shards: Sequence[Shard], column: str) -> TextColumn:
    """The captions of all rows, in lines."""
    from pyarrow.parquet import ParquetFile

    lines = []
    for shard in shards:
        with ParquetFile(shard.path) as file:
            batches = file.iter_batches(batch_size=CAPTIONS_AT_ONCE, columns=[column])
            lines += [caption_lines(batch, column, place=str(shard.path)) for batch in batches]
    return from_arrow(lines)


class EmbeddedSource:
    """The images in the rows of parquet files, named `FILE.parquet#ROW`.

    A few batches of rows stay in memory, and reading continues from the last position in a file, so that reading the
    images in order reads each file once.
    """

    def __init__(self, shards: Sequence[Shard], *, column: str, place: str) -> None:
        self._walks = {shard.name: _Walk(shard, column=column) for shard in shards}
        self._place = place

    def list(self) -> Iterator[Listed]:
        """Every row of every file; the sizes of images are not known without reading them."""
        for walk in self._walks.values():
            for name in walk.shard.names():
                yield Listed(name, SIZE_UNKNOWN, walk.shard.tag)

    def read(self, path: str) -> bytes:
        """The bytes of the image in a row; raises OSError if the row has none or the file cannot be read."""
        import pyarrow as pa

        name, _, row = path.rpartition("#")
        try:
            content = self._walks[name].read(int(row))
        except (KeyError, ValueError, IndexError, pa.ArrowException) as error:
            raise FileMissing(f"cannot be read ({error})") from error
        if content is None:
            raise FileMissing("has no image in its row")
        return content

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of the image in a row, or all if it is shorter; raises OSError."""
        return self.read(path)[:length]

    def describe(self) -> str:
        """The folder, for messages."""
        return self._place


class _Walk:
    """Reads the rows of a file in small batches, and continues from the last position in a row group if possible."""

    def __init__(self, shard: Shard, *, column: str) -> None:
        self.shard = shard
        self._column = column
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], pyarrow.Array] = OrderedDict()
        self._groups: OrderedDict[int, enumerate[pyarrow.RecordBatch]] = OrderedDict()

    def read(self, row: int) -> bytes | None:
        """The bytes in a row; None if it has none. Raises IndexError if the row does not exist."""
        if not 0 <= row < self.shard.rows:
            raise IndexError(f"{self.shard.name} has no row {row}")
        group = int(np.searchsorted(self.shard.starts, row, side="right")) - 1
        batch, place = divmod(row - self.shard.starts[group], ROWS_AT_ONCE)
        with self._lock:
            return self._batch(group, batch)[place].as_py()

    def _batch(self, group: int, batch: int) -> "pyarrow.Array":
        """The images of a batch: ROWS_AT_ONCE, or fewer at the end of the row group; raises IndexError."""
        opened = 0
        while (group, batch) not in self._kept:
            if group not in self._groups:
                opened += 1
                if opened > 1:
                    raise IndexError(f"{self.shard.name} has changed: it has fewer rows now")
                self._groups[group] = self._begin(group)
                _keep_last(self._groups, GROUPS_OPEN)
            number, found = next(self._groups[group], (-1, None))
            if found is None or number > batch:  # past the batch: start again from the beginning
                del self._groups[group]
            else:
                self._kept[group, number] = _images(found.column(0))
                _keep_last(self._kept, BATCHES_KEPT)
        self._kept.move_to_end((group, batch))
        return self._kept[group, batch]

    def _begin(self, group: int) -> "enumerate[pyarrow.RecordBatch]":
        from pyarrow.parquet import ParquetFile

        file = ParquetFile(self.shard.path, memory_map=True, pre_buffer=False)
        return enumerate(file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group], columns=[self._column]))


def _keep_last(kept: OrderedDict[Any, Any], most: int) -> None:
    if len(kept) > most:
        kept.popitem(last=False)


def _images(column: "pyarrow.Array") -> "pyarrow.Array":
    """The bytes of a column of images, which are structs of bytes and a path, or plain bytes."""
    import pyarrow as pa

    pc = compute()
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
