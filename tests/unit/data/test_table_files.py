"""Tables of every kind people have are read by the columns that are named, and say what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers.config.datasets.types import TableColumns
from helpers.data.columns import TextColumn
from helpers.data.sources.image_table import NO_ROW, ImageTable
from helpers.data.sources.table_files import read_table
from helpers.errors import DataError

EVERYTHING = {
    "filename_column": "file",
    "caption_column": "said",
    "fallback_caption_column": "else",
    "width_column": "w",
    "height_column": "h",
    "identifier_includes_extension": True,
}
ROWS = {
    "file": ["a.png", "cats/b.jpg", "c", "d.webp"],
    "said": ["of a", "", None, "two\n lines "],
    "else": ["not this", "of b", None, ""],
    "w": [10, 20, None, 40],
    "h": [11, 21, 31, -1],
    "unused": [None, None, None, None],
}


def columns_of(**more: Any) -> TableColumns:
    return TableColumns(**{**EVERYTHING, **more})


def written(path: Path, rows: dict[str, list[Any]], **options: Any) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(rows), path, **options)
    else:
        lines = [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
        path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def read(path: Path, **more: Any) -> ImageTable:
    return read_table(path, columns=columns_of(**more), name=path.name)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_every_column_is_read(tmp_path: Path, ending: str, in_memory: bool) -> None:
    path = written(tmp_path / f"t.{ending}", ROWS)
    table = read_table(path.read_bytes if in_memory else path, columns=columns_of(), name=path.name)
    assert list(table.names) == ROWS["file"]
    assert list(table.captions or ()) == ["of a", "of b", "", "two lines"]
    rows = table.rows_of(TextColumn.of(["d.webp", "nowhere.png", "a.png", "cats/b.jpg", "c"]))
    assert rows.tolist() == [3, NO_ROW, 0, 1, 2]
    assert table.sizes_of(rows).tolist() == [[0, 0], [0, 0], [10, 11], [20, 21], [0, 0]]
    assert list(table.captions_of(rows)) == ["two lines", "", "of a", "of b", ""]


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_lists_of_captions_are_several_captions(tmp_path: Path, ending: str) -> None:
    said = [["one", "", "two\nlines"], [], None, [None, "last"]]
    table = read(written(tmp_path / f"t.{ending}", ROWS | {"said": said}))
    assert list(table.captions or ()) == ["one\ntwo lines", "of b", "", "last"]


def test_numbers_are_names_and_floats_are_sizes(tmp_path: Path) -> None:
    rows = ROWS | {"file": [1, 2, 30, 4], "w": [1.0, 2.5, float("nan"), 4e12]}
    table = read(written(tmp_path / "t.jsonl", rows), identifier_includes_extension=False)
    found = table.rows_of(TextColumn.of(["30.png", "1.jpg", "2.tar.gz"]))
    assert found.tolist() == [2, 0, NO_ROW]
    assert table.sizes is not None and table.sizes[:, 0].tolist() == [1, 0, 0, 0]


def test_names_without_endings_meet_files_with_any(tmp_path: Path) -> None:
    table = ImageTable(place="t", names=TextColumn.of(["a", "dir.x/b", "c.d"]), names_have_endings=False)
    paths = TextColumn.of(["a.png", "a.jpg", "dir.x/b", "dir.x/b.webp", "c.d.png", "c.d", "caf\udce9.png"])
    assert table.rows_of(paths).tolist() == [0, 0, 1, 1, 2, NO_ROW, NO_ROW]


def test_a_table_without_rows_knows_nobody(tmp_path: Path) -> None:
    empty = pa.table(
        {name: pa.array([], pa.string() if name in ("file", "said", "else") else pa.int64()) for name in ROWS}
    )
    parquet.write_table(empty, tmp_path / "t.parquet")
    table = read(tmp_path / "t.parquet")
    rows = table.rows_of(TextColumn.of(["a.png"]))
    assert rows.tolist() == [NO_ROW]
    assert table.sizes_of(rows).tolist() == [[0, 0]] and list(table.captions_of(rows)) == [""]


def test_many_batches_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.data.sources.table_files.ROWS_AT_ONCE", 7)
    rows = {"file": [f"{n}" for n in range(100)], "said": [[f"{n}", "x"] for n in range(100)], "w": list(range(1, 101))}
    path = written(tmp_path / "t.parquet", rows | {"h": rows["w"]}, row_group_size=13)
    table = read(path, fallback_caption_column=None)
    assert list(table.names) == rows["file"]
    assert list(table.captions or ()) == [f"{n}\nx" for n in range(100)]
    assert table.sizes is not None and (table.sizes[:, 0] == np.arange(1, 101)).all()


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_missing_column_is_told_with_those_there(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"t.{ending}", ROWS)
    with pytest.raises(DataError, match=rf"t.{ending} has no column caption; its columns are: file, said, else, w"):
        read(path, caption_column="caption")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"w": ["wide", "x", "y", "z"]}, "column w of the table .* must hold numbers"),
        ({"said": [1.5, 2.5, 3.5, 4.5]}, "column said of the table .* must hold text"),
        ({"file": [[1], [2], [3], [4]]}, "column file of the table .* must hold text"),
    ],
)
def test_columns_of_other_kinds_are_told(tmp_path: Path, rows: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read(written(tmp_path / "t.parquet", ROWS | rows))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.parquet", b"PAR1 this is none PAR1"),
        ("t.jsonl", b"a,b\n1,2\n"),
        ("t.jsonl", b"[1, 2]\n"),
        ("t.jsonl", b'{"file": "a", "said": "x", "else": "", "w": 1, "h": 2}\n' * 200 + b'{"file": [1]}\n'),
        ("t.jsonl", b'{"file": "a", "said": "x", "else": "", "w": 1, "h": 2}\n' * 200 + b'{"file": '),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read(tmp_path / name)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.parquet"):
        read(tmp_path / "nowhere.parquet")
