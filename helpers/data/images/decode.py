"""Reads the size and the pixels of an image in any supported format.

Pillow releases the interpreter lock while it decodes and resizes, so threads use every core.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.data.images.color import Conversion, Profile, conversion_of, profile_use
from helpers.data.images.png import allow_long_texts, without_damaged_extras
from helpers.data.rejections import NO_IMAGE, OTHER_SIZE
from helpers.data.types import Geometry, Size
from helpers.errors import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageFile


START_BYTES = 65_536
LONGEST_EDGE_PX = 65_535
DRAFT_MARGIN = 2

# Formats that store size and orientation before the pixels; the others need the whole file.
SIZE_IN_START = frozenset({"BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "QOI"})
# Not images, or images that Pillow knows but cannot decode without another program.
NEVER_IMAGES = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
COMMON_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
# Camera raw files look like a TIFF whose first image is a thumbnail.
CAMERA_ENDINGS = frozenset({".arw", ".cr2", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".sr2", ".srw"})
OTHER_IMAGE_ENDINGS = frozenset({".cr3", ".eps", ".heic", ".heif", ".jxl", ".svg", ".wmf"})

ORIENTATION_TAG = 0x0112
MIRRORED_ACROSS = frozenset({2, 3, 6, 7})
MIRRORED_DOWN = frozenset({3, 4, 7, 8})
TURNED = frozenset({5, 6, 7, 8})

WEBP_HEADER_BYTES = 30
WEBP_CHUNK = 30
WEBP_EXIF_OR_XMP = 0x08 | 0x04
WEBP_PROFILE = 0x20


class UnreadableImage(DataError):
    """An image that cannot be used; `reason` says why, as a phrase that follows the image's name."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class NotAImage(Exception):
    """A file that is not an image, by its content and its extension."""


class ImageHeader(NamedTuple):
    """What is known of an image before its pixels are decoded: its upright size, and how its colors are read."""

    size: Size
    profile: Profile


def read_size(start: bytes, *, path: str, whole: Callable[[], bytes] | None = None) -> Size:
    """The size in pixels of the upright image; see `read_header`."""
    return read_header(start, path=path, whole=whole).size


def read_header(start: bytes, *, path: str, whole: Callable[[], bytes] | None = None) -> ImageHeader:
    """The size in pixels of the upright image and its color profile, from the first bytes of its file.

    start: the first START_BYTES of the file, or the whole file if it is shorter; whole: reads the whole file, for
    formats whose header is longer or elsewhere; None if `start` is the whole file. The pixels are not decoded.
    Raises UnreadableImage with the reason, NotAImage, and any exception of `whole`.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending in CAMERA_ENDINGS:
        raise UnreadableImage("is a camera's raw file, which is not supported; convert it to PNG or JPEG")
    if not start:
        raise UnreadableImage("is an empty file")
    formats = _formats(ending)
    if whole is not None:
        if size := _webp_size(start):
            profile = _webp_profile(start)
            return ImageHeader(_checked(size), profile_use(profile, "RGB") if profile else Profile.SRGB)
        try:
            with _opened(start, formats) as image:
                if image.format in SIZE_IN_START:  # Pillow has read on to the pixels, so past any profile
                    return _header(image)
        except UnreadableImage:
            pass  # the header may be longer than `start`: read the whole file
        start = whole()
    try:
        with _opened(start, formats) as image:
            return _header(image)
    except UnreadableImage as error:
        if error.reason == NO_IMAGE and not _promises_image(ending):
            raise NotAImage(path) from error
        raise


def decode(content: bytes, *, size: Size, geometry: Geometry) -> NDArray[np.uint8]:
    """The training pixels: sRGB [H, W, 3], upright, alpha flattened on white; may be read-only.

    size: the upright size that `geometry` was made for. Resizing uses Lanczos, in one step with the crop.
    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if each edge then still has at least twice the pixels that the
    resize needs: on noise with hard edges, the root mean square difference to the full decode is below 2.5 of 255.
    Raises UnreadableImage, also if the image no longer has `size`.
    """
    from PIL import Image

    with _opened(content, _formats(None)) as image:
        if _upright(image) != size:
            raise UnreadableImage(f"{OTHER_SIZE}: it is {_upright(image)}, expected {size}")
        orientation = _orientation(image)
        turned = orientation in TURNED
        box = _stored_box(geometry, size, orientation)
        scale = _draft(image, _across(geometry.resize, turned))
        box = tuple(edge / scale for edge in box)
        conversion = conversion_of(image)
        pixels = _resizable(image, conversion)
        box = (box[0], box[1], min(box[2], pixels.width), min(box[3], pixels.height))
        target = _across(geometry.target, turned)
        if (box[2] - box[0], box[3] - box[1]) == target and all(edge.is_integer() for edge in box):
            pixels = pixels.crop(tuple(int(edge) for edge in box))  # type: ignore[arg-type]
        else:
            pixels = pixels.resize(target, Image.Resampling.LANCZOS, box=box)
        pixels = conversion.apply(pixels)
        return _turned_upright(np.asarray(pixels if pixels.mode == "RGB" else pixels.convert("RGB")), orientation)


@contextmanager
def _opened(content: bytes, formats: tuple[str, ...]) -> Iterator["ImageFile.ImageFile"]:
    """A lazily opened image; errors in the block become an UnreadableImage with the reason."""
    from PIL import Image, UnidentifiedImageError

    try:
        allow_long_texts()
        with Image.open(io.BytesIO(without_damaged_extras(content)), formats=formats) as image:
            yield image
    except (UnreadableImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImage(NO_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImage("has so many pixels that it may be a decompression bomb; make it smaller") from error
    except Exception as error:  # decoders raise almost any exception on damaged bytes
        cut = "truncated" in str(error).lower()
        raise UnreadableImage("is cut short" if cut else f"is damaged ({error or type(error).__name__})") from error


@cache
def _formats(ending: str | None) -> tuple[str, ...]:
    """The formats to try on a file with this extension (None: all formats), common ones first.

    A format without a signature matches almost any bytes, so it is tried only if the extension names it.
    """
    from PIL import Image

    Image.init()
    named = Image.registered_extensions().get(ending or "")
    known = [
        name
        for name, (_, accepts) in Image.OPEN.items()
        if name not in NEVER_IMAGES and (accepts is not None or name == named or ending is None)
    ]
    signed_first = sorted(known, key=lambda name: Image.OPEN[name][1] is None)
    return (*COMMON_FORMATS, *(name for name in signed_first if name not in COMMON_FORMATS))


def _promises_image(ending: str) -> bool:
    from PIL import Image

    named = Image.registered_extensions().get(ending)
    return ending in OTHER_IMAGE_ENDINGS or (named in Image.OPEN and named not in NEVER_IMAGES)


def _orientation(image: "Image.Image") -> int:
    """The EXIF orientation, 1 to 8, of an image not yet decoded; 1 if missing or invalid.

    Only metadata before the pixels counts, so that scanning and decoding agree without reading whole PNGs.
    """
    from PIL import Image

    if image.format == "TIFF":  # Pillow rotates these itself
        return 1
    try:
        # The base class's method: PNG's own decodes the image to read metadata after the pixels.
        orientation = Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF is common and does not make the image unusable
        return 1
    return orientation if orientation in range(1, 9) else 1


def _header(image: "Image.Image") -> ImageHeader:
    return ImageHeader(_checked(_upright(image)), conversion_of(image).profile)


def _upright(image: "Image.Image") -> Size:
    return _across(Size(*image.size), _orientation(image) in TURNED)


def _across(size: Size, turned: bool) -> Size:
    return Size(size.height, size.width) if turned else size


def _checked(size: Size) -> Size:
    if not 0 < max(size) <= LONGEST_EDGE_PX or min(size) < 1:
        raise UnreadableImage(f"has an unsupported size ({size}); edges may be 1 to {LONGEST_EDGE_PX} pixels long")
    return size


def _stored_box(geometry: Geometry, size: Size, orientation: int) -> tuple[float, ...]:
    """The part of the image that becomes the crop, in pixels of the stored image (before EXIF orientation)."""
    across, down = size.width / geometry.resize.width, size.height / geometry.resize.height
    left, right = geometry.crop.left * across, geometry.crop.right * across
    top, bottom = geometry.crop.top * down, geometry.crop.bottom * down
    if orientation in MIRRORED_ACROSS:
        left, right = size.width - right, size.width - left
    if orientation in MIRRORED_DOWN:
        top, bottom = size.height - bottom, size.height - top
    return (top, left, bottom, right) if orientation in TURNED else (left, top, right, bottom)


def _draft(image: "ImageFile.ImageFile", resize: tuple[int, int]) -> float:
    """Decode a JPEG at a smaller size if that is enough for the resize; returns how many times smaller."""
    width = image.width
    drafted = image.draft(None, (DRAFT_MARGIN * resize[0], DRAFT_MARGIN * resize[1]))  # type: ignore[arg-type]
    return width / drafted[1][2] if drafted else 1.0


def _resizable(image: "Image.Image", conversion: Conversion) -> "Image.Image":
    """The image in a mode that can be resized without changing its colors: RGB, L for gray, CMYK with a profile."""
    from PIL import Image

    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "F":
        raise UnreadableImage("has floating-point pixels without a defined white; save it with 16 bits")
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(transparent, mask=transparent)
        return flat
    if image.mode not in ("RGB", "L", conversion.source):
        return image.convert("RGB")
    image.load()
    return image


def _eight_bits(values: NDArray[np.integer]) -> NDArray[np.uint8]:
    """16-bit gray levels as 8-bit ones; white stays white."""
    return ((np.clip(values, 0, 65_535).astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _turned_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels [h, w, 3], rotated and mirrored to be upright."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in MIRRORED_ACROSS:
        pixels = pixels[:, ::-1]
    if orientation in MIRRORED_DOWN:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _webp_size(start: bytes) -> Size | None:
    """A WebP's size from its first 30 bytes; None if it is not a WebP, or if `start` lacks its profile or its rotation.

    Pillow would need the whole file. Layout: RFC 9649 (WebP container, lossy and lossless bitstream headers).
    """
    if len(start) < WEBP_HEADER_BYTES or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return None
    kind = start[12:16]
    if kind == b"VP8X" and not start[20] & WEBP_EXIF_OR_XMP and _webp_profile(start) is not None:
        return Size(int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1)
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        return Size(int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF)
    if kind == b"VP8L" and start[20] == 0x2F:
        edges = int.from_bytes(start[21:25], "little")
        return Size((edges & 0x3FFF) + 1, (edges >> 14 & 0x3FFF) + 1)
    return None


def _webp_profile(start: bytes) -> bytes | None:
    """The color profile of a WebP, which stands before its pixels; b"" if it has none, None if it is not all there."""
    if start[12:16] != b"VP8X" or not start[20] & WEBP_PROFILE:
        return b""
    end = WEBP_CHUNK + 8 + int.from_bytes(start[WEBP_CHUNK + 4 : WEBP_CHUNK + 8], "little")
    return start[WEBP_CHUNK + 8 : end] if start[WEBP_CHUNK:].startswith(b"ICCP") and end <= len(start) else None
