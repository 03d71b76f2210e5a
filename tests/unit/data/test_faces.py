"""Crops around faces: found in a real photograph, whichever way its file is turned, and not looked for twice."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from helpers.data.images.face_detector import EDGE_PX, detector_size, largest_face, single_threaded
from helpers.data.images.geometry import crop_around
from helpers.data.types import Size
from helpers.reporting.events import Notice
from helpers.storage.local import LocalSource
from tests.unit.data.folders import Folder, reasons, same
from tests.unit.data.images import encoded, oriented, photograph

ASTRONAUT = Path(__file__).with_name("astronaut.jpg")
"""Eileen Collins, 384 pixels wide and high, photographed by NASA."""

FACE = (169, 95)
FACE_PX = 80


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def astronaut() -> Image.Image:
    return Image.open(ASTRONAUT).convert("RGB")


def beside(width: int, height: int, *, at: tuple[int, int]) -> Image.Image:
    """The photograph `at` a place of a larger image, in which there is no other face."""
    image = photograph(width, height)
    image.paste(astronaut(), at)
    return image


def middle(image: Image.Image) -> tuple[float, float] | None:
    """The middle of the face found, in the image's pixels."""
    seen = detector_size(Size(*image.size))
    with single_threaded():
        face = largest_face(np.asarray(image.resize(seen)))
    scale = max(image.size) / EDGE_PX
    return face and (scale * (face.left + face.right) / 2, scale * (face.top + face.bottom) / 2)


@pytest.mark.parametrize("way", ["as it is", "mirrored", "gray", "wide", "high", "largest of two"])
def test_a_face_is_found(way: str) -> None:
    x, y = FACE
    ways = {
        "as it is": (astronaut(), (x, y)),
        "mirrored": (ImageOps.mirror(astronaut()), (384 - x, y)),
        "gray": (astronaut().convert("L").convert("RGB"), (x, y)),
        "wide": (beside(1000, 400, at=(600, 10)), (600 + x, 10 + y)),
        "high": (beside(400, 1000, at=(10, 600)), (10 + x, 600 + y)),
    }
    two = beside(800, 400, at=(400, 0))
    two.paste(astronaut().resize((192, 192)), (0, 0))
    image, (x, y) = {**ways, "largest of two": (two, (400 + x, y))}[way]
    found = middle(image)
    assert found is not None
    assert np.hypot(found[0] - x, found[1] - y) < FACE_PX / 4


def test_no_face_is_found_where_there_is_none() -> None:
    assert middle(photograph(300, 200)) is None
    assert middle(Image.new("RGB", (64, 64), "pink")) is None
    assert middle(Image.new("RGB", (2000, 1), "pink")) is None


def test_a_crop_stays_inside_the_image() -> None:
    cuts = np.array([[200, 100, 50, 0, 150, 100]] * 4, np.int32)
    middles = np.array([[0.5, 0.5], [0.6, 0.5], [0.0, 0.9], [1.0, 0.1]])
    cut = crop_around(cuts, middles=middles)
    assert cut[:, 2].tolist() == [50, 70, 0, 100] and not cut[:, 3].any()
    assert (cut[:, 4:6] - cut[:, 2:4] == 100).all() and (cut[:, :2] == cuts[:, :2]).all()


@pytest.mark.parametrize(
    ("aspect", "width"),
    [({"crop_aspect": "square"}, 64), ({"crop_aspect": "closest", "crop_aspect_buckets": [0.5]}, 64)],
)
def test_the_crop_is_where_the_face_is(folder: Folder, aspect: dict[str, object], width: int) -> None:
    folder.put("right.jpg", encoded(beside(1000, 400, at=(600, 10)), "JPEG"))
    folder.put("left.jpg", encoded(beside(1000, 400, at=(10, 10)), "JPEG"))
    said = {"resolution": width, "resolution_type": "pixel", "crop": True, **aspect}
    catalog = folder.open(crop_style="face", **said)
    for row, face in ((0, 10 + FACE[0]), (1, 600 + FACE[0])):
        geometry = catalog.geometry(row)
        wanted = face * geometry.resize.width / 1000
        assert abs((geometry.crop.left + geometry.crop.right) / 2 - wanted) < 5
    centred = folder.open(crop_style="center", **said)
    assert [b.size for b in catalog.buckets] == [b.size for b in centred.buckets], "shapes do not follow faces"
    assert not same(catalog, centred)


def test_a_image_that_is_kept_whole_stays_whole(folder: Folder) -> None:
    folder.put("a.jpg", ASTRONAUT.read_bytes())
    said = {"crop": True, "crop_aspect": "preserve"}
    assert same(folder.open(crop_style="face", **said), folder.open(crop_style="center", **said))


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_face_is_looked_for_in_the_upright_image(folder: Folder, orientation: int) -> None:
    upright = beside(1000, 400, at=(600, 10))
    turned = upright.transpose({3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation])
    folder.put("turned.jpg", oriented(turned, "JPEG", orientation))
    folder.put("upright.jpg", encoded(upright, "JPEG"))
    catalog = folder.open(crop=True, crop_style="face")
    assert np.abs(catalog.geometries[0] - catalog.geometries[1]).max() <= 1
    assert catalog.geometries[0, 2] > folder.open(crop=True).geometries[0, 2]


def test_images_without_a_face_are_cut_at_their_middle_and_told(folder: Folder) -> None:
    for name in "abcde":
        folder.put(f"{name}.jpg", (300, 200))
    folder.put("face.jpg", encoded(beside(1000, 400, at=(600, 10)), "JPEG"))
    (folder.images / "broken.jpg").write_bytes(encoded(photograph(300, 200), "JPEG")[:3000])
    catalog = folder.open(crop=True, crop_style="face")
    said = [event.text for event in folder.listener.heard if isinstance(event, Notice)]
    assert any(
        "no face was found in 6 of 7 images, cropped at the center (a.jpg, b.jpg, broken.jpg, …)" in t for t in said
    )
    centred = folder.open(crop=True).geometries
    assert (catalog.geometries[:-1] == centred[:-1]).all() and (catalog.geometries[-1] != centred[-1]).any()


def test_a_known_image_is_not_looked_at_again(folder: Folder) -> None:
    folder.put("face.jpg", ASTRONAUT.read_bytes())
    folder.put("none.jpg", (300, 200))
    first = folder.open(crop=True, crop_style="face")
    assert sum(folder.opened.values()) == 4, "each header, then each image"
    second = folder.open(crop=True, crop_style="face")
    assert same(first, second) and not folder.opened
    folder.open(crop=True, crop_aspect="closest", crop_aspect_buckets=[1.5], crop_style="face")
    assert not folder.opened, "where a face is does not depend on the cut"
    folder.open(crop=True)
    assert not folder.opened


def test_faces_are_looked_for_only_where_crops_follow_them(folder: Folder) -> None:
    folder.put("face.jpg", ASTRONAUT.read_bytes())
    folder.open(crop=False, crop_style="face")
    assert sum(folder.opened.values()) == 1


def test_a_image_that_cannot_be_read_meanwhile_is_left_out_by_name(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("face.jpg", ASTRONAUT.read_bytes())
    folder.put("locked.jpg", (300, 200))

    def refuse(source: LocalSource, path: str) -> bytes:
        if path == "locked.jpg":
            raise PermissionError(13, "Permission denied")
        return (folder.images / path).read_bytes()

    with monkeypatch.context() as patch:
        patch.setattr(LocalSource, "read", refuse)
        catalog = folder.open(crop=True, crop_style="face")
        assert list(catalog.paths) == ["face.jpg"]
        assert reasons(catalog) == {"locked.jpg": "cannot be read (Permission denied)"}
    assert len(folder.open(crop=True, crop_style="face")) == 2, "the next start tries again"
