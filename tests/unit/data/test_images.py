"""Images as people have them: every format and fault gives the right pixels, or the reason why not."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from helpers.data.images.decode import START_BYTES, NotAImage, UnreadableImage, decode, read_size
from helpers.data.types import Box, Geometry, Size
from tests.unit.data.images import encoded, oriented, photograph, quadrants

Pixels = np.ndarray


def whole(size: tuple[int, int]) -> Geometry:
    return Geometry(resize=Size(*size), crop=Box(0, 0, *size))


def pixels_of(content: bytes, size: tuple[int, int] | None = None) -> Pixels:
    """All of an image at its own size, found as the catalog finds it."""
    found = read_size(content, path="image")
    assert size is None or found == size
    return decode(content, size=found, geometry=whole(found))


def unreadable(read: Callable[[], object]) -> str:
    with pytest.raises(UnreadableImage) as caught:
        read()
    return caught.value.reason


def rms(one: Pixels, other: Pixels) -> float:
    return float(np.sqrt(((one.astype(float) - other.astype(float)) ** 2).mean()))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "QOI"])
def test_lossless_formats_give_their_exact_pixels(format: str) -> None:
    image = photograph(70, 50)
    content = encoded(image, format)
    assert read_size(content, path=f"image.{format.lower()}") == (70, 50)
    pixels = decode(content, size=Size(70, 50), geometry=whole((70, 50)))
    assert pixels.dtype == np.uint8
    assert (pixels == np.asarray(image)).all()


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "GIF", "JPEG2000"])
def test_lossy_formats_give_their_colors(format: str) -> None:
    assert rms(pixels_of(encoded(quadrants(), format), (96, 64)), np.asarray(quadrants())) < 16


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_first(format: str, orientation: int) -> None:
    content = oriented(quadrants(), format, orientation)
    with Image.open(io.BytesIO(content)) as stored:
        upright = ImageOps.exif_transpose(stored).convert("RGB")
    size = Size(*upright.size)
    assert read_size(content, path="a.png") == size
    # Shrunk to a half, of which the upper left part is kept: off centre, so that a wrong turn shows.
    half = Size(size.width // 2, size.height // 2)
    geometry = Geometry(resize=half, crop=Box(0, 0, half.width - 8, half.height - 4))
    expected = np.asarray(upright.resize(half, Image.Resampling.LANCZOS).crop(geometry.crop))
    found = decode(content, size=size, geometry=geometry)
    assert found.shape == expected.shape
    # Shrinking down before across rounds differently; a wrong turn would be off by 255.
    assert np.abs(found.astype(int) - expected).max() <= 8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_break_a_image(exif: bytes) -> None:
    content = encoded(quadrants(), "JPEG", exif=exif)
    assert pixels_of(content).shape == (64, 96, 3)


def test_a_strange_orientation_is_none() -> None:
    assert pixels_of(oriented(quadrants(), "PNG", 77)).shape == (64, 96, 3)


def test_resize_and_crop_in_one_step_equal_two() -> None:
    image = photograph(640, 400)
    geometry = Geometry(resize=Size(320, 200), crop=Box(37, 11, 165, 139))
    expected = image.resize((320, 200), Image.Resampling.LANCZOS).crop(geometry.crop)
    assert (decode(encoded(image), size=Size(640, 400), geometry=geometry) == np.asarray(expected)).all()


def test_a_crop_at_its_own_scale_takes_exact_pixels() -> None:
    image = photograph(100, 90)
    box = Box(7, 5, 71, 69)
    pixels = decode(encoded(image), size=Size(100, 90), geometry=Geometry(resize=Size(100, 90), crop=box))
    assert (pixels == np.asarray(image.crop(box))).all()


@pytest.mark.parametrize("edge", [64, 128, 250, 500, 640])
def test_a_smaller_decode_makes_no_difference_to_see(edge: int) -> None:
    image = photograph(1283, 1027)
    content = encoded(image, "JPEG", quality=92)
    geometry = Geometry(resize=Size(edge * 1283 // 1027, edge), crop=Box(3, 0, edge + 3, edge))
    with Image.open(io.BytesIO(content)) as full:
        expected = full.convert("RGB").resize(geometry.resize, Image.Resampling.LANCZOS).crop(geometry.crop)
    assert rms(decode(content, size=Size(1283, 1027), geometry=geometry), np.asarray(expected)) < 2.5


def test_cmyk_becomes_its_colors() -> None:
    image = quadrants().convert("CMYK")
    assert rms(pixels_of(encoded(image, "JPEG", quality=95)), np.asarray(quadrants())) < 4


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette_images_become_rgb(mode: str) -> None:
    image = quadrants().convert(mode)
    assert (pixels_of(encoded(image)) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_flattened_on_white(mode: str) -> None:
    image = Image.new(mode, (64, 64), (100, 0) if mode == "LA" else (10, 20, 30, 0))
    image.paste((100, 255) if mode == "LA" else (10, 20, 30, 255), (0, 0, 32, 64))
    image.paste((100, 128) if mode == "LA" else (10, 20, 30, 128), (0, 32, 32, 64))
    pixels = pixels_of(encoded(image))
    assert (pixels[:, 32:] == 255).all()
    assert (pixels[0, 0] == ([100] * 3 if mode == "LA" else [10, 20, 30])).all()
    assert np.abs(pixels[40, 0].astype(int) - ([177] * 3 if mode == "LA" else [132, 137, 142])).max() <= 1


def test_transparent_colors_do_not_bleed_into_edges() -> None:
    image = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (64, 0, 128, 128))
    content = encoded(image)
    assert (decode(content, size=Size(128, 128), geometry=whole((32, 32))) == 255).all()


@pytest.mark.parametrize("transparency", [0, bytes([0, 255, 255, 255])])
def test_a_palette_with_transparency_is_flattened_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 200, 10, 10, 0, 0, 0, 0, 0, 0])
    image.paste(0, (0, 0, 32, 64))
    pixels = pixels_of(encoded(image, transparency=transparency))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 63].tolist() == [200, 10, 10]


def test_a_transparent_color_is_flattened_on_white() -> None:
    pixels = pixels_of(encoded(quadrants(), transparency=(255, 0, 0)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 95].tolist() == [0, 255, 0]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(format: str) -> None:
    levels = np.linspace(0, 65_535, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    pixels = pixels_of(encoded(Image.fromarray(levels), format))
    assert (pixels == np.round(levels / 257).astype(np.uint8)[..., None]).all()


def test_floating_point_pixels_are_refused_with_a_cure() -> None:
    content = encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF")
    assert "16 bits" in unreadable(lambda: pixels_of(content))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue", "lime")]
    pixels = pixels_of(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 8


def test_the_header_is_enough_for_the_common_formats() -> None:
    image = photograph(400, 300)
    for format in ("JPEG", "PNG", "BMP"):
        content = encoded(image, format)
        length = min(START_BYTES, len(content) // 2)
        assert read_size(content[:length], path="a.jpg", whole=lambda: pytest.fail("all was read")) == (400, 300)


@pytest.mark.parametrize(
    ("mode", "options"), [("RGB", {}), ("RGB", {"lossless": True}), ("RGBA", {}), ("RGB", {"save_all": True})]
)
@pytest.mark.parametrize("size", [(400, 300), (16_383, 5), (1, 1)])
def test_a_webp_s_header_is_enough(size: tuple[int, int], mode: str, options: dict[str, bool]) -> None:
    image = Image.new(mode, size)
    frames = [Image.new(mode, size, "red")] if "save_all" in options else []
    content = encoded(image, "WEBP", append_images=frames, **options)
    assert read_size(content[:40], path="a.webp", whole=lambda: pytest.fail("all was read")) == size


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_header_longer_than_the_start_is_read_whole(format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = np.random.default_rng(0).bytes(2 * START_BYTES)
    content = encoded(photograph(400, 300), format, icc_profile=profile, exif=exif)
    assert read_size(content[:START_BYTES], path="a.jpg", whole=lambda: content) == (300, 400)


def test_the_name_does_not_matter() -> None:
    assert read_size(encoded(quadrants(), "PNG"), path="wrong.jpg") == (96, 64)
    assert read_size(encoded(quadrants(), "JPEG"), path="no ending") == (96, 64)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_image_cut_short_is_refused_at_the_latest_when_decoded(format: str) -> None:
    content = encoded(photograph(200, 160), format)
    reason = unreadable(lambda: pixels_of(content[: len(content) * 2 // 3]))
    assert "cut short" in reason or "damaged" in reason or "not an image" in reason
    assert "0x" not in reason, "an address in memory would make equal reasons differ"


def test_flipped_bytes_are_refused() -> None:
    content = bytearray(encoded(photograph(200, 160)))
    content[len(content) // 2] ^= 0xFF
    assert "damaged" in unreadable(lambda: pixels_of(bytes(content)))


def test_an_empty_file_is_refused() -> None:
    assert unreadable(lambda: read_size(b"", path="a.jpg")) == "is an empty file"


def test_bytes_in_no_format_are_refused_under_a_image_s_name_and_no_image_under_another() -> None:
    noise = np.random.default_rng(0).bytes(500)
    for path in ("a.jpg", "a.PNG", "a.webp"):
        assert "not an image" in unreadable(lambda path=path: read_size(noise, path=path))
    for path in ("a.dat", "README", "a.bin"):
        with pytest.raises(NotAImage):
            read_size(noise, path=path)


@pytest.mark.parametrize("path", ["a.heic", "b.JXL", "c.svg"])
def test_images_that_cannot_be_read_are_named_not_passed_over(path: str) -> None:
    assert unreadable(lambda: read_size(b"<svg not read here>", path=path))


def test_a_camera_s_file_is_not_trained_on_as_its_thumbnail() -> None:
    assert "convert" in unreadable(lambda: read_size(encoded(quadrants(), "TIFF"), path="photo.NEF"))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def test_bombs_and_unsupported_sizes_are_refused() -> None:
    assert "bomb" in unreadable(lambda: read_size(png_header(50_000, 50_000), path="a.png"))
    assert "unsupported size" in unreadable(lambda: read_size(png_header(100_000, 2), path="a.png"))


def test_a_image_that_changed_since_it_was_found_is_refused() -> None:
    reason = unreadable(lambda: decode(encoded(quadrants()), size=Size(64, 96), geometry=whole((64, 96))))
    assert "64x96" in reason
    assert "96x64" in reason
