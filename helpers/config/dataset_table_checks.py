"""What is wrong with datasets that a table tells of: files that are not there, columns that nobody has named."""

from collections.abc import Iterator
from pathlib import Path

from helpers.config.datasets.entries import Entry
from helpers.config.datasets.types import CsvDataset, HuggingFaceDataset, ImageDataset, LocalDataset, S3Dataset
from helpers.errors import Problem

TABLE_ENDINGS = (".parquet", ".jsonl")
NEEDS = 'add "parquet": { "path": …, "filename_column": … }'


def check_table(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    """Everything wrong with the tables that a dataset's entry names, or fails to name."""
    match dataset:
        case LocalDataset() | S3Dataset():
            yield from _about_files(entry, dataset=dataset)
        case CsvDataset() if not dataset.csv_file.is_file():
            yield _no_file(entry, "csv_file", path=dataset.csv_file)
        case HuggingFaceDataset():
            yield from _hub(entry, dataset=dataset)
        case _:
            return


def _about_files(entry: Entry, *, dataset: LocalDataset | S3Dataset) -> Iterator[Problem]:
    table, sizes, captions = (
        dataset.parquet,
        *(each == "parquet" for each in (dataset.metadata_backend, dataset.caption_strategy)),
    )
    if table is None:
        for key, asks in {"metadata_backend": sizes, "caption_strategy": captions}.items():
            if asks and "parquet" not in entry.said:
                yield entry.problem(key, reason="no table is named", fix=NEEDS)
        return
    said = entry.said.get("caption_strategy", dataset.caption_strategy)
    if not sizes and not captions and said == dataset.caption_strategy:
        fix = 'add "metadata_backend": "parquet" or "caption_strategy": "parquet", or remove it'
        yield entry.problem("parquet", reason="nothing in this entry asks for a table", fix=fix)
    if not str(table.path).endswith(TABLE_ENDINGS):
        yield entry.problem(
            "parquet", reason=f"{table.path} is no table that is known", fix="name a .parquet or .jsonl file"
        )
    elif isinstance(table.path, Path) and not table.path.is_file():
        yield _no_file(entry, "parquet", path=table.path)
    if sizes and not (table.width_column and table.height_column):
        yield entry.problem(
            "parquet",
            reason='"metadata_backend": "parquet" takes sizes from it, and their columns are not named',
            fix='add "width_column" and "height_column" in it, or say "metadata_backend": "discovery"',
        )
    if captions and not table.caption_column:
        yield entry.problem("parquet", reason="the column of captions is not named", fix='add "caption_column" in it')


def _no_file(entry: Entry, key: str, *, path: Path) -> Problem:
    reason = f"{path} is not a file" if path.exists() else f"there is no file {path}"
    return entry.problem(key, reason=reason, fix="name the table's file; a relative path starts at OUTPUT_DIR")


def _hub(entry: Entry, *, dataset: HuggingFaceDataset) -> Iterator[Problem]:
    name = dataset.dataset_name
    if dataset.folder is None and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        fix = "name a folder of .parquet files, or a hub id such as owner/name"
        yield entry.problem("dataset_name", reason="there is no such folder, and no hub id looks like it", fix=fix)
