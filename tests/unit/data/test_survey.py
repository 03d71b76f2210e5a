"""The survey finds what a person would want to know of a dataset, and stays small however large the dataset is."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.data.columns import TextColumn
from helpers.data.report.survey import fingerprint, survey
from helpers.data.types import Catalog
from helpers.reporting.pages.datasets_page import CaptionLengths, datasets_page
from helpers.storage.local import LocalSource
from tests.unit.data.folders import Folder
from tests.unit.data.images import encoded, photograph

SETTINGS: dict[str, Any] = {
    "resolution": 64,
    "resolution_type": "pixel",
    "crop": True,
    "aspect_bucket_alignment": 16,
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def notes_of(catalog: Catalog) -> list[str]:
    return [f"note on {bucket.size}" for bucket in catalog.buckets]


def fill(folder: Folder) -> Catalog:
    for number, name in enumerate(("red fox in snow", "red boat", "old boat at sea")):
        folder.put(f"{name}.jpg", encoded(photograph(160, 120, seed=number), "JPEG"))
    copy = (folder.images / "red boat.jpg").read_bytes()
    folder.put("again/the same boat.jpg", copy)
    smaller = Image.open(io.BytesIO(copy)).resize((130, 98))
    folder.put("boat saved again.jpg", encoded(smaller, "JPEG"))
    folder.put("broken.png", b"\x89PNG\r\n\x1a\nno more")
    folder.put("notes.md", b"not an image")
    return folder.open(**SETTINGS)


def test_copies_are_found_by_their_bytes_and_by_their_look(folder: Folder) -> None:
    catalog = fill(folder)
    view = survey(catalog, notes=notes_of(catalog))
    assert view.twins == [["again/the same boat.jpg", "red boat.jpg"]]
    assert [sorted(group) for group in view.alike] == [
        ["again/the same boat.jpg", "boat saved again.jpg", "red boat.jpg"]
    ]
    assert view.compared == 5


def test_words_sizes_and_what_is_left_out_are_counted(folder: Folder) -> None:
    catalog = fill(folder)
    view = survey(catalog, notes=notes_of(catalog))
    assert dict(view.words)["boat"] == 0.8
    assert "the" not in dict(view.words)
    assert sorted(set(view.sizes)) == [(130, 98), (160, 120)]
    assert sum(view.aspects) == 5
    assert list(view.rejected.values()) == [["broken.png"]]
    assert view.ignored == 1
    (bucket,) = view.buckets
    assert (bucket.width, bucket.height, bucket.images, bucket.note) == (64, 64, 5, "note on 64x64")
    assert [(each.width, each.height) for each in bucket.thumbnails] == [(64, 64)] * 5


def test_a_thumbnail_shows_the_part_that_is_trained_on(folder: Folder) -> None:
    pixels = np.zeros((600, 1200, 3), np.uint8)
    pixels[:, 300:900] = (0, 200, 0)  # the middle square is green, the rest is black
    folder.put("field.png", encoded(Image.fromarray(pixels), "PNG"))
    catalog = folder.open(resolution=512, resolution_type="pixel", crop=True)
    (thumbnail,) = survey(catalog, notes=notes_of(catalog)).buckets[0].thumbnails
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail.data_url.partition(",")[2]))))
    assert shown.shape == (112, 112, 3)
    assert abs(shown.reshape(-1, 3).mean(axis=0) - (0, 200, 0)).max() < 4


def test_the_fingerprint_changes_with_what_the_page_shows(folder: Folder) -> None:
    catalog = fill(folder)
    notes = [notes_of(catalog)]
    first = fingerprint([catalog], notes=notes)
    assert first == fingerprint([folder.open(**SETTINGS)], notes=notes)
    assert first != fingerprint([catalog], notes=[["another plan"]])
    folder.put("one more.jpg")
    assert first != fingerprint([fill(folder)], notes=notes)


def test_names_and_captions_cannot_break_out_of_the_page(folder: Folder) -> None:
    folder.put("<script>alert(1)<_script>.jpg")
    folder.put('" onload="alert(2).png', b"\x89PNG\r\n\x1a\nno more")
    catalog = folder.open(resolution=64, resolution_type="pixel")
    page = datasets_page([survey(catalog, notes=notes_of(catalog))], fingerprint="x")
    assert "<script" not in page
    assert 'onload="alert' not in page
    assert "&lt;script&gt;alert(1)" in page


def test_captions_that_are_cut_are_told_of(folder: Folder) -> None:
    catalog = fill(folder)
    lengths = [CaptionLengths(tokenizer="CLIP-L", limit=77, lengths=[5, 80, 77, 300])]
    page = datasets_page([survey(catalog, notes=notes_of(catalog), lengths=lengths)], fingerprint="x")
    assert "Captions in tokens of CLIP-L" in page
    assert "2 of 4 are truncated at 77" in page


def test_a_page_of_two_hundred_thousand_images_is_small(tmp_path: Path) -> None:
    photograph(64, 64).save(tmp_path / "one.png")
    total = 200_000
    sizes = np.tile(np.array([[64, 64]], np.int32), (total, 1))
    edges = np.random.default_rng(0).integers(2, 9, total) * 8
    cuts = np.stack([edges, edges, np.zeros(total, int), np.zeros(total, int), edges, edges], axis=1).astype(np.int32)
    catalog = Catalog(
        dataset_id="large",
        source=LocalSource(tmp_path),
        repeats=0,
        paths=TextColumn.of(["one.png"] * total),
        tags=TextColumn.of([""] * total),
        size_bytes=np.arange(total, dtype=np.int64),
        sizes=sizes,
        geometries=cuts,
        captions_of=lambda index: (f"a caption of image {index}",),
    )
    page = datasets_page([survey(catalog, notes=notes_of(catalog))], fingerprint="x")
    assert len(page) < 2_000_000
    assert "200,000" in page
