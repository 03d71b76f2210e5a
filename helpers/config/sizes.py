"""The sizes of validation images, as they are written in one setting."""

import re

SMALLEST_PX = 64
MULTIPLE_PX = 16
"""SD3's latents are an eighth of the image, and its transformer takes them two by two."""


def parse_validation_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """(width, height) in pixels of each size in `text`: `1024`, `1280x768`, or a comma list of these; none twice.

    Raises ValueError, with the reason as its message, where one cannot be drawn.
    """
    return tuple(dict.fromkeys(_size(each.strip()) for each in text.split(",")))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text.lower())
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 1024 or 1280x768")
    size = int(found[1]), int(found[2] or found[1])
    for edge in size:
        if edge < SMALLEST_PX or edge % MULTIPLE_PX:
            near = max(SMALLEST_PX, round(edge / MULTIPLE_PX) * MULTIPLE_PX)
            raise ValueError(f"{edge} in {text!r} is not a multiple of {MULTIPLE_PX} from {SMALLEST_PX} up; {near} is")
    return size
