"""Each image of a dataset gets the words its settings say, and none of another's."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.data.folders import Folder, reasons, same


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_captions_come_from_the_file_name(folder: Folder) -> None:
    folder.put("a_red_apple.jpg")
    assert folder.open().captions_of(0) == ("a red apple",)


def test_captions_come_from_text_files_and_changes_are_noticed(folder: Folder) -> None:
    for path in ("a.jpg", "a.png", "cats/a.jpg", "b.jpg"):
        folder.put(path)
    folder.put("a.txt", b"first\nsecond")
    folder.put("cats/a.TXT", b"of cats")
    folder.put("b.txt", b"of b")
    catalog = folder.open(caption_strategy="textfile")
    assert {path: catalog.captions_of(row) for row, path in enumerate(catalog.paths)} == {
        "a.jpg": ("first", "second"),
        "a.png": ("first", "second"),
        "b.jpg": ("of b",),
        "cats/a.jpg": ("of cats",),
    }
    assert same(catalog, folder.open(caption_strategy="textfile"))
    assert not folder.opened
    folder.put("b.txt", b"something else")
    catalog = folder.open(caption_strategy="textfile")
    assert set(folder.opened) == {"b.txt"}
    assert catalog.captions_of(2) == ("something else",)


def test_a_missing_or_empty_text_file_rejects_by_name_or_falls_back(folder: Folder) -> None:
    for name in ("said", "silent", "blank"):
        folder.put(f"{name}_one.jpg")
    folder.put("said_one.txt", b"words")
    folder.put("blank_one.txt", b" \n")
    catalog = folder.open(caption_strategy="textfile")
    assert list(catalog.paths) == ["said_one.jpg"]
    assert catalog.captions_of(0) == ("words",)
    assert "empty caption file" in reasons(catalog)["blank_one.jpg"]
    assert "no caption file" in reasons(catalog)["silent_one.jpg"]
    catalog = folder.open(caption_strategy="textfile", caption_fallback=True)
    assert [catalog.captions_of(row) for row in range(3)] == [("blank one",), ("words",), ("silent one",)]


def test_a_text_file_that_cannot_be_read_rejects_its_image(folder: Folder) -> None:
    folder.put("a.jpg")
    folder.put("b.jpg")
    folder.put("b.txt", b"words")
    (folder.images / "a.txt").symlink_to("nowhere")
    catalog = folder.open(caption_strategy="textfile")
    assert list(catalog.paths) == ["b.jpg"]
    assert catalog.captions_of(0) == ("words",)
    assert "cannot be read" in reasons(catalog)["a.jpg"]


def test_the_instance_prompt_can_be_all_or_the_beginning(folder: Folder) -> None:
    folder.put("a_dog.jpg")
    prompt: dict[str, Any] = {"instance_prompt": "sks"}
    assert folder.open(caption_strategy="instanceprompt", **prompt).captions_of(0) == ("sks",)
    assert folder.open(only_instance_prompt=True, caption_strategy="textfile", **prompt).captions_of(0) == ("sks",)
    assert folder.open(prepend_instance_prompt=True, **prompt).captions_of(0) == ("sks a dog",)
    assert folder.open(**prompt).captions_of(0) == ("a dog",)
