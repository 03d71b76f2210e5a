"""What a look at a folder of images tells the wizard."""

from pathlib import Path

import pytest
from PIL import Image

import helpers.data.report.preview
from helpers.data.report.preview import preview_folder
from helpers.errors import DataError


def image(path: Path, size: tuple[int, int], **how: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **how)


def test_sizes_texts_names_and_what_cannot_be_read(tmp_path: Path) -> None:
    image(tmp_path / "a gray cat.png", (30, 20))
    image(tmp_path / "below" / "IMG_2041.jpg", (40, 50))
    (tmp_path / "below" / "IMG_2041.txt").write_text("a cat")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes").write_text("nor this")
    (tmp_path / ".hidden.png").write_bytes(b"")
    seen = preview_folder(tmp_path)
    assert sorted(seen.sizes) == [(30, 20), (40, 50)]
    assert (seen.images, seen.unreadable, seen.captioned, seen.telling_names) == (2, 1, 1, 1)
    assert seen.example == "a gray cat"


def test_sizes_are_those_of_the_upright_image(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    image(tmp_path / "turned.jpg", (40, 20), exif=turned)
    assert preview_folder(tmp_path).sizes == ((20, 40),)


@pytest.mark.parametrize(("name", "tells"), [("ant", 1), ("a_red_barn 2", 1), ("DSC00012", 0), ("3f9a0c", 0), ("x", 0)])
def test_names_that_read_like_captions(name: str, tells: int, tmp_path: Path) -> None:
    image(tmp_path / f"{name}.png", (8, 8))
    assert preview_folder(tmp_path).telling_names == tells


def test_of_very_many_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers.data.report.preview, "LOOKED_AT", 5)
    for number in range(20):
        image(tmp_path / f"{number:02}.png", (8 + number, 8))
        (tmp_path / f"{number:02}.txt").write_text("eight high")
    seen = preview_folder(tmp_path)
    assert len(seen.sizes) == 5 and seen.sizes[-1][0] > 20, "spread over all of them"
    assert (seen.images, seen.captioned) == (20, 20)


def test_a_folder_without_images_and_none_at_all(tmp_path: Path) -> None:
    assert preview_folder(tmp_path).sizes == ()
    with pytest.raises(DataError, match="cannot list"):
        preview_folder(tmp_path / "nowhere")
