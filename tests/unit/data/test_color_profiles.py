"""Images of every color profile are trained on in sRGB, and those in sRGB already exactly as they are."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from helpers.cache.keys import latent_keys
from helpers.data.catalog.build import remember_rejected
from helpers.data.catalog.known_files import FileMetadataCache
from helpers.data.catalog.scan import find_files
from helpers.data.images.color import Profile
from helpers.data.images.decode import START_BYTES, UnreadableImage, read_header
from helpers.data.types import Rejected
from helpers.reporting.events import Notice
from helpers.storage.local import LocalCache, LocalSource
from tests.unit.data import profiles
from tests.unit.data.folders import Folder
from tests.unit.data.images import encoded, photograph
from tests.unit.data.test_images import pixels_of

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED_IN_P3 = Image.new("RGB", (64, 48), (234, 51, 35))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def profile_of(content: bytes, name: str = "a.png") -> Profile:
    """As the catalog finds it: from the start of the file."""
    return read_header(content[:START_BYTES], path=name, whole=lambda: content).profile


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_display_p3_becomes_srgb(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {"quality": 100}
    content = encoded(RED_IN_P3, format, icc_profile=profiles.DISPLAY_P3, **options)
    assert profile_of(content) == Profile.CONVERTED
    allowed = 1 if format in ("PNG", "TIFF", "WEBP") else 4
    assert np.abs(pixels_of(content).astype(int) - (255, 0, 0)).max() <= allowed


def test_adobe_rgb_becomes_srgb_and_transparency_white() -> None:
    image = Image.new("RGBA", (64, 48), (0, 255, 0, 255))
    image.paste((0, 0, 0, 0), (32, 0, 64, 48))
    pixels = pixels_of(encoded(Image.new("RGB", (8, 8), (144, 255, 60)), icc_profile=profiles.ADOBE_RGB))
    assert np.abs(pixels[0, 0].astype(int) - (0, 255, 1)).max() <= 3, "sRGB's own green, in AdobeRGB's numbers"
    seen = pixels_of(encoded(image, icc_profile=profiles.ADOBE_RGB))
    assert seen[0, 0].tolist() == [0, 255, 0]
    assert (seen[:, 40:] == 255).all()


@pytest.mark.parametrize("profile", [SRGB, profiles.OTHER_SRGB], ids=["LittleCMS", "other"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_srgb_is_decoded_bit_for_bit_as_without_a_profile(format: str, mode: str, profile: bytes) -> None:
    image = photograph(70, 50).convert("RGB" if (format, mode) == ("JPEG", "RGBA") else mode)
    tagged = encoded(image, format, icc_profile=profile)
    assert profile in tagged or format == "PNG"
    assert profile_of(tagged) == Profile.SRGB
    assert (pixels_of(tagged) == pixels_of(encoded(image, format))).all()


def test_gray_profiles_brighten_or_darken_gray_images_only() -> None:
    image = photograph(70, 50).convert("L")
    linear = b"curv\0\0\0\0\0\0\0\0"
    pixels = pixels_of(encoded(image, icc_profile=profiles.gray(linear)))
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert pixels.mean() > np.asarray(image).mean() + 20
    assert profile_of(encoded(image, icc_profile=profiles.gray(profiles.SRGB_CURVE))) == Profile.SRGB
    assert profile_of(encoded(image.convert("RGB"), icc_profile=profiles.gray(linear))) == Profile.UNUSABLE


def test_cmyk_is_converted_by_its_profile() -> None:
    cyan = Image.new("CMYK", (64, 48), (255, 0, 0, 0))
    content = encoded(cyan, "TIFF", icc_profile=profiles.pink_cyan())
    assert profile_of(content) == Profile.CONVERTED
    red, green, _ = pixels_of(content)[0, 0].astype(int)
    assert red > 230 and green < 160, "Lab (75, 50, 0) is pink"
    assert pixels_of(encoded(cyan, "TIFF"))[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("profile", [b"no profile", profiles.DISPLAY_P3[:200], SRGB[:60] + bytes(900)])
def test_a_broken_profile_leaves_the_pixels_as_they_are(profile: bytes) -> None:
    content = encoded(RED_IN_P3, icc_profile=profile)
    assert profile_of(content) == Profile.UNUSABLE
    assert (pixels_of(content) == (234, 51, 35)).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
def test_a_profile_that_ends_behind_the_start_of_the_file_is_found(format: str) -> None:
    padding = np.random.default_rng(0).bytes(2 * START_BYTES)
    content = encoded(RED_IN_P3, format, icc_profile=profiles.DISPLAY_P3 + padding)
    assert len(content) > START_BYTES
    assert profile_of(content) == Profile.CONVERTED


def test_a_profile_of_a_large_webp_is_found_without_reading_all_of_it() -> None:
    content = encoded(photograph(400, 300), "WEBP", icc_profile=profiles.DISPLAY_P3, lossless=True)
    found = read_header(content[:START_BYTES], path="a.webp", whole=lambda: pytest.fail("all was read"))
    assert found == ((400, 300), Profile.CONVERTED)


def test_only_converted_images_get_other_keys_of_their_latents(folder: Folder) -> None:
    for name, profile in (("none", None), ("p3", profiles.DISPLAY_P3), ("srgb", SRGB), ("broken", b"no profile")):
        folder.put(f"{name}.png", encoded(photograph(128, 96), icc_profile=profile))
    catalog = folder.open()
    assert list(catalog.paths) == ["broken.png", "none.png", "p3.png", "srgb.png"]
    listed = find_files(LocalSource(folder.images), want_notes=False).tags
    changed = [row for row in range(4) if catalog.tags[row] != listed[row]]
    assert changed == [2]
    assert latent_keys(catalog, vae_identity="v").tolist() == latent_keys(folder.open(), vae_identity="v").tolist()
    assert not folder.opened, "the profiles are remembered"
    warnings = [e.text for e in folder.listener.heard if isinstance(e, Notice) and e.level == "warning"]
    assert len(warnings) == 2, "one for each opening"
    assert "unusable color profiles in 1 image (broken.png)" in warnings[0]


def test_a_converted_image_that_turns_out_damaged_is_remembered(folder: Folder) -> None:
    folder.put("good.png", encoded(photograph(128, 96)))
    folder.put("p3.png", encoded(photograph(128, 96), icc_profile=profiles.DISPLAY_P3))
    remember_rejected(LocalCache(folder.metadata), folder.open(), [Rejected("p3.png", "is cut short")])
    assert list(folder.open().paths) == ["good.png"]


def test_headers_remembered_by_earlier_versions_are_read_again(folder: Folder) -> None:
    folder.put("p3.png", encoded(photograph(128, 96), icc_profile=profiles.DISPLAY_P3))
    earlier = FileMetadataCache(LocalCache(folder.metadata), name="headers-1")
    (key,) = find_files(LocalSource(folder.images), want_notes=False).keys
    earlier.add(key, struct.pack("<ii", 0, 0) + b"is damaged (Decompressed data too large)")
    earlier.flush()
    catalog = folder.open()
    assert list(catalog.paths) == ["p3.png"]
    assert catalog.tags[0].endswith("+srgb-1")
    assert folder.opened == {"p3.png": 1}


@pytest.mark.parametrize("compressed", [False, True])
def test_pngs_with_long_texts_are_read(compressed: bool) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "node " * 1_000_000, zip=compressed)
    assert (pixels_of(encoded(RED_IN_P3, pnginfo=texts)) == (234, 51, 35)).all()


def test_pngs_with_a_long_profile_are_read() -> None:
    content = encoded(RED_IN_P3, icc_profile=profiles.DISPLAY_P3 + bytes(3 << 20))
    assert profile_of(content) == Profile.CONVERTED


def with_damaged(content: bytes, kind: bytes) -> bytes:
    """A PNG with a wrong checksum in its first chunk of a kind."""
    at = content.index(kind) - 4
    end = at + 8 + int.from_bytes(content[at : at + 4], "big")
    wrong = zlib.crc32(content[at + 4 : end]) ^ 1
    return content[:end] + wrong.to_bytes(4, "big") + content[end + 4 :]


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"eXIf"])
def test_a_bad_checksum_beside_the_pixels_does_not_reject_a_png(kind: bytes) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("comment", "a cat")
    exif = Image.Exif()
    exif[0x0112] = 6
    image = photograph(300, 200)
    content = encoded(image, pnginfo=texts, icc_profile=SRGB, exif=exif)
    upright = np.asarray(image) if kind == b"eXIf" else np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    damaged = with_damaged(content, kind)
    with pytest.raises(Exception, match=r"checksum|identify"), Image.open(io.BytesIO(damaged)) as plain:
        plain.load()
    assert (pixels_of(damaged) == upright).all()
    size = read_header(damaged[:START_BYTES], path="a.png", whole=lambda: damaged).size
    assert size == upright.shape[1::-1]


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_a_bad_checksum_of_what_the_pixels_need_rejects_a_png(kind: bytes) -> None:
    damaged = with_damaged(encoded(photograph(300, 200).convert("P")), kind)
    with pytest.raises(UnreadableImage):
        read_header(damaged, path="a.png")
