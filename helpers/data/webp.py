"""A WebP file's size from its first 30 bytes; Pillow wants all of the file before it says anything.

Layout: RFC 9649 (WebP container, lossy and lossless bitstream headers).
"""

from helpers.data.types import Size

HEADER_BYTES = 30
EXIF_OR_XMP = 0x08 | 0x04


def webp_size(start: bytes) -> Size | None:
    """The size in pixels; None where `start` is no WebP, or what stands behind the pixels may turn it."""
    if len(start) < HEADER_BYTES or start[:4] != b"RIFF" or start[8:12] != b"WEBP":
        return None
    kind = start[12:16]
    if kind == b"VP8X" and not start[20] & EXIF_OR_XMP:
        return Size(int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1)
    if kind == b"VP8 " and start[23:26] == b"\x9d\x01\x2a":
        return Size(int.from_bytes(start[26:28], "little") & 0x3FFF, int.from_bytes(start[28:30], "little") & 0x3FFF)
    if kind == b"VP8L" and start[20] == 0x2F:
        edges = int.from_bytes(start[21:25], "little")
        return Size((edges & 0x3FFF) + 1, (edges >> 14 & 0x3FFF) + 1)
    return None
