"""What Pillow refuses in PNGs whose pixels are whole: long texts, and damage beside the pixels."""

import zlib
from functools import cache

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LONGEST_TEXT_BYTES = 64 << 20
"""A text or color profile, unpacked; ComfyUI keeps its workflows in texts."""
TEXTS_BYTES = 128 << 20
ANCILLARY = 0x20
FRAME_BYTES = 12


@cache
def allow_long_texts() -> None:
    """Raise Pillow's bounds on texts and color profiles in a PNG from 1 MiB each, 64 MiB together."""
    from PIL import PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK = LONGEST_TEXT_BYTES
    PngImagePlugin.MAX_TEXT_MEMORY = TEXTS_BYTES


def without_damaged_extras(content: bytes) -> bytes:
    """The bytes of a file, less a PNG's ancillary chunks (texts, profiles …) whose checksums are wrong.

    Other files, and what is cut short, come back as they are; chunks that hold pixels are not looked at.
    """
    if not content.startswith(SIGNATURE):
        return content
    kept, since, at = [], 0, len(SIGNATURE)
    view = memoryview(content)
    while at + FRAME_BYTES <= len(content):
        end = at + FRAME_BYTES + int.from_bytes(view[at : at + 4], "big")
        if end > len(content):
            break
        if content[at + 4] & ANCILLARY and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(
            view[end - 4 : end], "big"
        ):
            kept.append(view[since:at])
            since = end
        at = end
    return b"".join((*kept, view[since:])) if kept else content
