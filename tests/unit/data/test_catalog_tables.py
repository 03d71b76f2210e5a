"""Images that a table tells of: nothing is opened to plan them, and what does not fit is left out by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.data.catalog.build import remember_rejected
from helpers.data.columns import TextColumn
from helpers.data.sources.image_table import ImageTable
from helpers.data.types import Rejected, Size
from helpers.errors import DataError
from helpers.reporting.events import Notice
from helpers.storage.local import LocalCache
from tests.unit.data.folders import Folder, reasons, same

SIZES: dict[str, Any] = {"metadata_backend": "parquet"}
CAPTIONS: dict[str, Any] = {"caption_strategy": "parquet"}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    for name in ("a.jpg", "cats/b.png", "c.jpg", "d"):
        folder.put(name, (200, 100))
    return folder


def table(rows: dict[str, tuple[int, int, str]], **more: Any) -> ImageTable:
    return ImageTable(
        place="the table t.parquet",
        names=TextColumn.of(rows),
        sizes=np.array([row[:2] for row in rows.values()], np.int32).reshape(-1, 2),
        captions=TextColumn.of(row[2] for row in rows.values()),
        **more,
    )


ROWS = {"c.jpg": (300, 100, "of c"), "a.jpg": (200, 100, "one\ntwo"), "d": (0, 100, ""), "gone.png": (9, 9, "")}


def test_no_image_is_opened_to_plan_a_run(folder: Folder) -> None:
    catalog = folder.open(table=table(ROWS), **SIZES, **CAPTIONS)
    assert not folder.opened
    assert list(catalog.paths) == ["a.jpg", "c.jpg"]
    assert [catalog.record(row).size for row in range(2)] == [Size(200, 100), Size(300, 100)]
    assert [catalog.captions_of(row) for row in range(2)] == [("one", "two"), ("of c",)]
    assert reasons(catalog) == {
        "cats/b.png": "has no row in the table",
        "d": "has no width or height in the table",
    }
    said = [event.text for event in folder.listener.heard if isinstance(event, Notice)]
    assert "dataset pets: 1 row of the table t.parquet without a matching file" in said
    assert same(catalog, folder.open(table=table(ROWS), **SIZES, **CAPTIONS))


def test_sizes_from_headers_and_captions_from_the_table(folder: Folder) -> None:
    folder.put("page.html.gone", b"<html>")
    rows = ROWS | {"page.html.gone": (0, 0, "promised")}
    catalog = folder.open(table=table(rows), **CAPTIONS)
    assert list(catalog.paths) == ["a.jpg", "c.jpg"]
    assert catalog.record(1).size == Size(200, 100)
    assert reasons(catalog) == {
        "cats/b.png": "has no row in the table",
        "d": "has no caption in the table",
        "page.html.gone": "is not an image in any format that can be read",
    }


def test_what_the_table_does_not_say_may_fall_back_on_the_name(folder: Folder) -> None:
    catalog = folder.open(table=table(ROWS), caption_fallback=True, **CAPTIONS)
    assert [catalog.captions_of(row) for row in range(4)] == [("one", "two"), ("of c",), ("b",), ("d",)]


def test_words_are_taken_out_and_prompts_put_before(folder: Folder) -> None:
    prompt: dict[str, Any] = {"instance_prompt": "my", "prepend_instance_prompt": True}
    catalog = folder.open(table=table(ROWS), filters=("of c", "s/one/1/"), **CAPTIONS, **prompt)
    assert [catalog.captions_of(row) for row in range(len(catalog))] == [("my 1", "my two")]
    assert "no caption left" in reasons(catalog)["c.jpg"]


def test_names_without_endings(folder: Folder) -> None:
    rows = {"a": (200, 100, "x"), "cats/b": (200, 100, "y")}
    catalog = folder.open(table=table(rows, names_have_endings=False), **SIZES, **CAPTIONS)
    assert list(catalog.paths) == ["a.jpg", "cats/b.png"]


def test_images_found_to_be_of_another_size_stay_out(folder: Folder) -> None:
    catalog = folder.open(table=table(ROWS), **SIZES, **CAPTIONS)
    remember_rejected(LocalCache(folder.metadata), catalog, (Rejected("c.jpg", "is not of the size it was taken for"),))
    again = folder.open(table=table(ROWS), **SIZES, **CAPTIONS)
    assert list(again.paths) == ["a.jpg"] and again.ignored == 0
    assert reasons(again)["c.jpg"] == "is not of the size it was taken for"


def test_a_table_about_other_files_is_told_with_names_of_both(folder: Folder) -> None:
    with pytest.raises(
        DataError, match=r"names in the table: x/a, y\n  files: a.jpg, c.jpg, cats/b.png, …\n.*filename_c"
    ):
        folder.open(table=table({"x/a": (1, 1, ""), "y": (1, 1, "")}), **SIZES, **CAPTIONS)
