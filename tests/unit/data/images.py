"""Real images for the tests, as the bytes of their files."""

import io
from typing import Any

import numpy as np
from PIL import Image


def photograph(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Smooth colors with some grain: what cameras make, as far as decoders care."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-6, 7, smooth.shape), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file of that format."""
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def oriented(image: Image.Image, format: str, orientation: int) -> bytes:
    """A file whose EXIF says how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format, exif=exif)


def quadrants(width: int = 96, height: int = 64) -> Image.Image:
    """Red, green, blue and white quarters, by which a turned image is told from an upright one."""
    image = Image.new("RGB", (width, height))
    for number, color in enumerate(("red", "lime", "blue", "white")):
        left, top = number % 2 * width // 2, number // 2 * height // 2
        image.paste(color, (left, top, left + width // 2, top + height // 2))
    return image
