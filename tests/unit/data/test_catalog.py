"""A dataset is opened as its folder and its settings say, once and again, whatever lies in it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.config.datasets.types import LocalDataset
from helpers.data.catalog.build import recrop, remember_rejected
from helpers.data.types import Rejected, Size
from helpers.errors import DataError
from helpers.reporting.events import Notice, StageAdvanced, StageStarted
from helpers.storage.local import LocalCache
from tests.unit.data.folders import CountingSource, Folder, reasons, same
from tests.unit.data.images import encoded, oriented, photograph

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_images_are_found_by_content_in_nested_folders(folder: Folder) -> None:
    image = photograph(128, 96)
    folder.put("one.png", encoded(image))
    folder.put("cats/one.jpg", encoded(image, "JPEG"))
    folder.put("cats/one.webp", encoded(image, "WEBP"))
    folder.put("wrong.jpg", encoded(image))
    folder.put("unheard of.dat", encoded(image))
    folder.put("no ending", encoded(image, "GIF"))
    folder.put("deep/er/UPPER.JPEG", encoded(image, "JPEG"))
    catalog = folder.open()
    assert list(catalog.paths) == sorted(catalog.paths)
    assert set(catalog.paths) == {
        "one.png",
        "cats/one.jpg",
        "cats/one.webp",
        "wrong.jpg",
        "unheard of.dat",
        "no ending",
        "deep/er/UPPER.JPEG",
    }
    assert catalog.record(0).size == Size(128, 96)
    assert catalog.rejected == ()


def test_hidden_files_and_other_files_are_ignored_and_counted(folder: Folder) -> None:
    folder.put("one.jpg")
    folder.put(".hidden.jpg")
    folder.put(".git/image.jpg")
    folder.put("cats/._one.jpg", b"resource fork")
    for path in ("notes.txt", "data.json", "table.parquet", "README", "weights.bin"):
        folder.put(path, b"no image at all")
    catalog = folder.open()
    assert list(catalog.paths) == ["one.jpg"]
    assert catalog.ignored == 7
    assert catalog.rejected == ()
    assert "7 other files ignored" in "".join(e.text for e in folder.listener.heard if isinstance(e, Notice))
    assert same(catalog, folder.open())


def test_bad_images_are_left_out_by_name_with_a_reason(folder: Folder) -> None:
    folder.put("good.jpg")
    folder.put("empty.jpg", b"")
    folder.put("noise.png", b"\x89PNG\r\n\x1a\n" + bytes(50))
    folder.put("phone.heic", b"\0\0\0\x18ftypheic")
    (folder.images / "gone.jpg").symlink_to("nowhere.jpg")
    catalog = folder.open()
    assert list(catalog.paths) == ["good.jpg"]
    assert [image.path for image in catalog.rejected] == ["empty.jpg", "gone.jpg", "noise.png", "phone.heic"]
    assert reasons(catalog)["empty.jpg"] == "is an empty file"
    assert "cannot be read" in reasons(catalog)["gone.jpg"]
    (warning,) = [e.text for e in folder.listener.heard if isinstance(e, Notice) and e.level == "warning"]
    assert all(name in warning for name in reasons(catalog))


def test_a_known_image_is_not_opened_again(folder: Folder) -> None:
    for number in range(5):
        folder.put(f"{number}.jpg")
    folder.put("empty.jpg", b"")
    folder.put("no image", b"x")
    first = folder.open()
    assert set(folder.opened.values()) == {1}
    assert len(folder.opened) == 7
    heard = len(folder.listener.heard)
    assert same(first, folder.open(workers=1))
    assert not folder.opened
    assert not [e for e in folder.listener.heard[heard:] if isinstance(e, StageStarted)]


def test_opening_known_images_imports_no_decoder(folder: Folder) -> None:
    folder.put("a.jpg")
    folder.open()
    script = f"""
import sys
from pathlib import Path
from helpers.config.datasets.types import LocalDataset
from helpers.data.catalog.build import open_catalog
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache, LocalSource
images, cache = Path({str(folder.images)!r}), Path({str(folder.metadata)!r})
dataset = LocalDataset(id="pets", instance_data_dir=images, cache_dir_vae=cache)
source, metadata = LocalSource(images), LocalCache(cache)
assert len(open_catalog(dataset, source=source, metadata=metadata, seed=0, workers=1, reporter=Reporter(),
    longest_edge_px=3072))
print(sorted({{"PIL", "pyarrow", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_only_what_is_new_or_changed_is_opened(folder: Folder) -> None:
    folder.put("a.jpg")
    folder.put("b.jpg")
    folder.open()
    folder.put("a.jpg", (200, 100))
    folder.put("c.jpg")
    catalog = folder.open()
    assert set(folder.opened) == {"a.jpg", "c.jpg"}
    assert catalog.record(0).size == Size(200, 100)


def test_a_file_that_could_not_be_read_is_tried_again(folder: Folder) -> None:
    folder.put("a.jpg")
    (folder.images / "late.jpg").symlink_to("../late.jpg")
    assert list(folder.open().paths) == ["a.jpg"]
    (folder.images.parent / "late.jpg").write_bytes(encoded(photograph(64, 64), "JPEG"))
    assert list(folder.open().paths) == ["a.jpg", "late.jpg"]


def test_a_scan_that_was_stopped_goes_on(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.data.catalog.known_files.ROWS_PER_PART", 4)
    for number in range(20):
        folder.put(f"{number:02}.jpg")
    read_start = CountingSource.read_start

    def stopping(self: CountingSource, path: str, length: int) -> bytes:
        if path == "13.jpg":
            raise KeyboardInterrupt
        return read_start(self, path, length)

    monkeypatch.setattr(CountingSource, "read_start", stopping)
    with pytest.raises(KeyboardInterrupt):
        folder.open(workers=1)
    monkeypatch.setattr(CountingSource, "read_start", read_start)
    assert len(folder.open()) == 20
    assert len(folder.opened) == 8, "of 13 read before, 12 were in whole parts"


def test_progress_counts_every_image(folder: Folder) -> None:
    for number in range(7):
        folder.put(f"{number}.jpg")
    folder.open()
    (started,) = [e for e in folder.listener.heard if isinstance(e, StageStarted)]
    assert (started.total, started.unit) == (7, "images")
    assert sum(e.count for e in folder.listener.heard if isinstance(e, StageAdvanced)) == 7


def test_nothing_is_written_beside_the_images(folder: Folder) -> None:
    folder.put("a.jpg")
    before = sorted(folder.images.rglob("*"))
    folder.open()
    assert sorted(folder.images.rglob("*")) == before


def test_buckets_are_exact_sizes_in_order(folder: Folder) -> None:
    for number, size in enumerate([(300, 200), (200, 200), (200, 300), (600, 400), (201, 199)]):
        folder.put(f"{number}.jpg", size)
    catalog = folder.open(repeats=3)
    found = [(bucket.size, bucket.images.tolist(), bucket.repeats) for bucket in catalog.buckets]
    assert found == [(Size(80, 128), [2], 3), (Size(96, 96), [1, 4], 3), (Size(128, 80), [0, 3], 3)]
    assert all(catalog.geometry(i).target == bucket.size for bucket in catalog.buckets for i in bucket.images.tolist())


def test_turned_images_are_measured_upright(folder: Folder) -> None:
    folder.put("turned.jpg", oriented(photograph(300, 200), "JPEG", 6))
    catalog = folder.open()
    assert catalog.record(0).size == Size(200, 300)
    assert catalog.buckets[0].size == Size(80, 128)


def test_random_crops_stay_while_seed_and_path_do(folder: Folder) -> None:
    for number in range(8):
        folder.put(f"{number}.jpg", (400, 200))
    settings: dict[str, Any] = {"crop": True, "crop_style": "random"}
    first = folder.open(**settings)
    folder.put("0 a new one.jpg", (400, 200))
    second = folder.open(**settings)
    assert (second.geometries[1:] == first.geometries).all()
    assert len(np.unique(second.geometries[:, 2])) > 2
    assert (folder.open(seed=1, **settings).geometries != second.geometries).any()


def test_each_epoch_has_its_own_random_crops_in_the_same_buckets(folder: Folder) -> None:
    for number in range(8):
        folder.put(f"{number}.jpg", (400, 200))
    said: dict[str, Any] = {
        "crop": True,
        "crop_style": "random",
        "crop_aspect": "random",
        "crop_aspect_buckets": [0.5, 1.0],
    }
    catalog = folder.open(**said)
    said |= {"id": "pets", "instance_data_dir": folder.images, "cache_dir_vae": folder.metadata, "resolution": 0.01}
    dataset = LocalDataset(**said, aspect_bucket_alignment=16)
    first, second, again = (recrop(catalog, dataset=dataset, seed=0, epoch=epoch) for epoch in (0, 1, 1))
    assert (first.geometries == catalog.geometries).all() and (second.geometries == again.geometries).all()
    assert (second.geometries != catalog.geometries).any(axis=1).sum() >= 6
    for one, other in zip(catalog.buckets, second.buckets, strict=True):
        assert one.size == other.size and (one.images == other.images).all()


def test_at_most_so_many_are_chosen_and_one_more_image_changes_one_at_the_most(folder: Folder) -> None:
    for number in range(20):
        folder.put(f"{number}.jpg")
    first = folder.open(max_num_samples=5)
    assert (len(first), first.not_chosen, first.rejected) == (5, 15, ())
    assert sum(map(len, first.buckets)) == 5
    assert list(folder.open(max_num_samples=5).paths) == list(first.paths)
    assert set(first.paths) < set(folder.open(max_num_samples=6).paths)
    assert set(folder.open(max_num_samples=5, seed=1).paths) != set(first.paths)
    folder.put("20.jpg")
    assert len(set(folder.open(max_num_samples=5).paths) - set(first.paths)) <= 1
    assert len(folder.open(max_num_samples=50)) == 21


def test_small_images_are_left_out_and_counted(folder: Folder) -> None:
    folder.put("large.jpg", (400, 300))
    folder.put("small.jpg", (300, 300))
    catalog = folder.open(minimum_image_size=0.1)
    assert list(catalog.paths) == ["large.jpg"]
    assert reasons(catalog) == {"small.jpg": "is smaller than minimum_image_size = 0.1 megapixels"}
    assert list(folder.open(minimum_image_size=300, resolution_type="pixel", resolution=96).paths) == [
        "large.jpg",
        "small.jpg",
    ]


def test_images_the_model_cannot_place_are_left_out(folder: Folder) -> None:
    folder.put("strip.jpg", (2000, 20))
    folder.put("square.jpg", (200, 200))
    catalog = folder.open(longest_edge_px=400)
    assert list(catalog.paths) == ["square.jpg"]
    assert "400 pixels" in reasons(catalog)["strip.jpg"]
    assert len(folder.open(longest_edge_px=400, crop=True)) == 2


def test_nothing_left_names_counts_reasons_and_cures(folder: Folder) -> None:
    for number in range(5):
        folder.put(f"{number}.jpg", (100, 100))
    folder.put("empty.png", b"")
    with pytest.raises(DataError) as caught:
        folder.open(minimum_image_size=1.0)
    message = str(caught.value)
    assert "'pets'" in message
    assert "minimum_image_size = 1 megapixels: 5 (0.jpg, 1.jpg, 2.jpg, …)" in message
    assert "fix: lower minimum_image_size" in message
    assert "is an empty file: 1 (empty.png)" in message


def test_an_empty_folder_is_named_with_the_setting(folder: Folder) -> None:
    folder.put("notes.md", b"")
    with pytest.raises(DataError, match=r"no images.*images \(1 other files\).*instance_data_dir"):
        folder.open()


def test_odd_names_are_images_like_others(folder: Folder) -> None:
    for name in (b"caf\xe9.jpg", b"two\nlines.jpg", b"two  spaces.jpg"):
        folder.put(os.fsdecode(name))
    catalog = folder.open()
    assert {catalog.captions_of(row)[0] for row in range(3)} == {"café", "two lines", "two spaces"}
    assert all(catalog.source.read(path) for path in catalog.paths)
    assert same(catalog, folder.open())
    assert not folder.opened


def test_unreadable_pixels_are_dropped_and_remembered(folder: Folder) -> None:
    for name in ("a", "b", "c"):
        folder.put(f"{name}.jpg")
    catalog = folder.open()
    rejected = (Rejected("b.jpg", "is cut short"),)
    left = catalog.without(rejected)
    assert list(left.paths) == ["a.jpg", "c.jpg"]
    assert [left.captions_of(row) for row in range(2)] == [("a",), ("c",)]
    assert [bucket.images.tolist() for bucket in left.buckets] == [[0, 1]]
    assert len(catalog) == 3
    remember_rejected(LocalCache(folder.metadata), catalog, rejected)
    assert same(left, folder.open())
    assert not folder.opened


def test_what_may_be_over_next_time_is_not_remembered(folder: Folder) -> None:
    folder.put("a.jpg")
    folder.put("b.jpg")
    catalog = folder.open()
    remember_rejected(LocalCache(folder.metadata), catalog, (Rejected("b.jpg", "was busy", lasting=False),))
    assert len(folder.open()) == 2


def test_dropping_every_image_is_an_error(folder: Folder) -> None:
    folder.put("a.jpg")
    with pytest.raises(DataError, match=r"is cut short: 1 \(a.jpg\)"):
        folder.open().without((Rejected("a.jpg", "is cut short"),))
