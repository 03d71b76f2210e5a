"""Color profiles (ICC): images are trained on in sRGB, so other colors are converted with LittleCMS.

The rendering intent is relative colorimetric with black point compensation: white stays white, black stays black.
Colors that sRGB cannot show are clipped.
"""

from enum import IntEnum
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image, ImageCms

SRGB_TOLERANCE = 3
"""Profiles that change no 8-bit value by more are sRGB: its many versions round differently. Gamma 2.2 differs by 7."""
PROBES_PER_AXIS = 18
PROFILES_KEPT = 32
GRAY_MODES = frozenset({"1", "L", "LA", "La"})
OTHER_SPACES = frozenset({"CMYK", "LAB", "HSV", "F"})


class Profile(IntEnum):
    """What an image's color profile means for its pixels; the numbers are stored with its header.

    SRGB: none, or one equivalent to sRGB: the pixels are taken as they are. CONVERTED: the pixels are converted to
    sRGB. UNUSABLE: the profile is broken or made for another kind of image: the pixels are taken as they are.
    """

    SRGB = 0
    CONVERTED = 1
    UNUSABLE = 2


class Conversion:
    """How the pixels of an image become sRGB; `source` is the mode they are converted from, "" where they are not."""

    def __init__(self, profile: Profile, source: str = "", transform: "ImageCms.ImageCmsTransform | None" = None):
        self.profile = profile
        self.source = source
        self._transform = transform

    def apply(self, image: "Image.Image") -> "Image.Image":
        """The image in sRGB: RGB, or as it is where nothing is converted."""
        from PIL import ImageCms

        if self._transform is None:
            return image
        converted = ImageCms.applyTransform(
            image if image.mode == self.source else image.convert(self.source), self._transform
        )
        assert converted is not None, "a new image is made"
        return converted


def conversion_of(image: "Image.Image") -> Conversion:
    """How the pixels of an opened image, not yet decoded, become sRGB; never raises because of its profile."""
    content = image.info.get("icc_profile")
    return _conversion(content, image.mode) if content else Conversion(Profile.SRGB)


def profile_use(content: bytes, mode: str) -> Profile:
    """What the profile `content` means for an image of Pillow's `mode`."""
    return _conversion(content, mode).profile


@lru_cache(maxsize=PROFILES_KEPT)
def _conversion(content: bytes, mode: str) -> Conversion:
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(content))
        space = getattr(profile.profile, "xcolor_space", "")
        source = _source_mode(space.strip(), mode)
        if not source:
            return Conversion(Profile.UNUSABLE)
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            source,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        conversion = Conversion(Profile.CONVERTED, source, transform)
        return Conversion(Profile.SRGB) if _changes_nothing(conversion) else conversion
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):  # how Pillow and LittleCMS refuse a profile
        return Conversion(Profile.UNUSABLE)


def _source_mode(space: str, mode: str) -> str:
    """The mode in which pixels of `mode` are given to a profile of color space `space`; "" where they do not fit."""
    if space == "CMYK" and mode == "CMYK":
        return "CMYK"
    if space == "GRAY" and (mode in GRAY_MODES or mode.startswith("I")):
        return "L"
    return "RGB" if space == "RGB" and mode not in OTHER_SPACES else ""


def _changes_nothing(conversion: Conversion) -> bool:
    """Whether a conversion leaves colors spread over all that 8 bits can hold as they are."""
    from PIL import Image

    if conversion.source == "CMYK":
        return False
    if conversion.source == "L":
        probes = np.arange(256, dtype=np.uint8)[None]
    else:
        levels = np.linspace(0, 255, PROBES_PER_AXIS).round().astype(np.uint8)
        probes = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(probes)
    change = np.asarray(conversion.apply(before)).astype(int) - np.asarray(before.convert("RGB"))
    return int(np.abs(change).max()) <= SRGB_TOLERANCE
