"""Color profiles (ICC) made byte by byte, from the published primaries and curves; none is copied from a file."""

import struct

P3_PRIMARIES = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_PRIMARIES = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB_PRIMARIES = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65_536) for value in values))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
GAMMA_2_2 = b"para\0\0\0\0\0\0\0\0" + _fixed(2.19921875)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"wtpt": _xyz(D50), b"desc": b"mluc" + bytes(4) + struct.pack(">II", 0, 12)} | tags
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", at + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", at + len(data), b"\0\0\0\0", 0x04200000, kind, space, connection)
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def matrix(primaries: tuple[tuple[float, ...], ...], curve: bytes) -> bytes:
    """An RGB profile of three primaries (adapted to D50) and a curve."""
    red, green, blue = map(_xyz, primaries)
    curves = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    return _profile(b"mntr", b"RGB ", b"XYZ ", {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue, **curves})


def gray(curve: bytes) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def pink_cyan() -> bytes:
    """A CMYK printer whose cyan ink is pink, Lab (75, 50, 0): no usual formula gives that."""
    corners = b""
    for corner in range(16):
        cyan, others, black = corner >> 3 & 1, (corner >> 2 & 1) + (corner >> 1 & 1), corner & 1
        corners += bytes((0, 128, 128)) if black else bytes((255 - 64 * (cyan + others), 128 + 50 * cyan, 128))
    ramp = bytes(range(256))
    lut = b"mft1\0\0\0\0\4\3\2\0" + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * ramp + corners + 3 * ramp
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut, b"A2B1": lut})


DISPLAY_P3 = matrix(P3_PRIMARIES, SRGB_CURVE)
ADOBE_RGB = matrix(ADOBE_PRIMARIES, GAMMA_2_2)
OTHER_SRGB = matrix(SRGB_PRIMARIES, SRGB_CURVE)
