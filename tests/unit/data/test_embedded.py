"""Images in the rows of parquet files: every kind of column, few rows at a time, and the files of one split."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers.config.datasets.types import HuggingFaceDataset
from helpers.data.sources import huggingface as embedded
from helpers.data.sources.huggingface import open_embedded
from helpers.data.sources.image_table import ImageTable
from helpers.errors import DataError
from helpers.storage.protocols import SIZE_UNKNOWN, SourceStore


def opened(folder: Path, **said: Any) -> tuple[SourceStore, ImageTable]:
    dataset = HuggingFaceDataset(**{"id": "rows", "cache_dir_vae": folder, "dataset_name": str(folder), **said})
    return open_embedded(dataset, folder=folder)


def put(path: Path, rows: int, *, structs: bool = True, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = [f"{path.name} {row}".encode() for row in range(rows)]
    images = [{"bytes": content, "path": None} for content in contents] if structs else contents
    parquet.write_table(pa.table({"image": images, "caption": [f"c{row}" for row in range(rows)]}), path, **options)


@pytest.mark.parametrize("structs", [True, False])
def test_each_row_is_an_image_with_its_caption(tmp_path: Path, structs: bool) -> None:
    put(tmp_path / "b.parquet", 3, structs=structs)
    put(tmp_path / "a" / "a.parquet", 120, structs=structs, row_group_size=50)
    source, table = opened(tmp_path)
    listed = list(source.list())
    assert [file.path for file in listed] == sorted(table.names) == list(table.names)
    assert (len(listed), listed[7].path, listed[7].size_bytes) == (123, "a/a.parquet#007", SIZE_UNKNOWN)
    assert all(file.tag for file in listed)
    assert [source.read(file.path) for file in listed[118:122]] == [
        b"a.parquet 118",
        b"a.parquet 119",
        b"b.parquet 0",
        b"b.parquet 1",
    ]
    assert source.read_start("b.parquet#2", 4) == b"b.pa"
    assert list(table.captions or ())[119:] == ["c119", "c0", "c1", "c2"]


def test_going_through_in_order_reads_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.parquet", 500, row_group_size=100)
    source, table = opened(tmp_path)
    begun: list[int] = []
    begin = embedded._Walk._begin
    monkeypatch.setattr(embedded._Walk, "_begin", lambda self, group: (begun.append(group), begin(self, group))[1])
    contents = list(map(source.read, table.names))
    assert contents == [f"a.parquet {row}".encode() for row in range(500)]
    assert begun == [0, 1, 2, 3, 4]


def test_any_order_gives_the_same_images(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", 500, row_group_size=130)
    source, _ = opened(tmp_path)
    rows = random.Random(0).choices(range(500), k=200)
    with ThreadPoolExecutor(8) as threads:
        contents = list(threads.map(source.read, (f"a.parquet#{row:03}" for row in rows)))
    assert contents == [f"a.parquet {row}".encode() for row in rows]


def test_a_row_without_an_image_or_not_there_is_told(tmp_path: Path) -> None:
    images = pa.array([None, {"bytes": None, "path": "x.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    parquet.write_table(pa.table({"image": images, "caption": ["a", "b"]}), tmp_path / "a.parquet")
    source, _ = opened(tmp_path)
    for name in ("a.parquet#0", "a.parquet#1", "a.parquet#2", "b.parquet#0", "a.parquet", "a.parquet#-1"):
        with pytest.raises(OSError):
            source.read(name)


@pytest.mark.parametrize(
    ("split", "found"),
    [
        (None, ["data/train-00000-of-00001.parquet", "default/train/0000.parquet"]),
        ("test", ["data/test-00000-of-00001.parquet"]),
    ],
)
def test_a_split_has_its_files(tmp_path: Path, split: str | None, found: list[str]) -> None:
    for name in ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "default/train/0000.parquet"):
        put(tmp_path / name, 1)
    source, _ = opened(tmp_path, split=split)
    assert [file.path.partition("#")[0] for file in source.list()] == found


def test_what_cannot_be_used_is_told_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .parquet files in"):
        opened(tmp_path)
    put(tmp_path / "train.parquet", 1)
    with pytest.raises(DataError, match=r"split 'test'.*found: train.parquet"):
        opened(tmp_path, split="test")
    with pytest.raises(DataError, match=r"train.parquet has no column photo; its columns are: image, caption"):
        opened(tmp_path, image_column="photo")
    with pytest.raises(DataError, match=r"caption of .* must hold images, but holds string"):
        opened(tmp_path, image_column="caption")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 is no table")
    with pytest.raises(DataError, match=r"train.parquet cannot be read"):
        opened(tmp_path)
