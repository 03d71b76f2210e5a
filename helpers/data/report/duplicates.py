"""Finds duplicates in a dataset: files with the same bytes, and images that look nearly the same."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.data.columns import printable
from helpers.data.types import Box, Catalog, Geometry, Size

COMPARED = 500
"""The most images to compare by their perceptual hash."""

READ_IN_FULL = 2_000
"""The most files of equal length to read and compare."""

COMPARED_PX = 64
MOST_BITS_APART = 6
"""Of the 64 bits of a perceptual hash; crops and re-saved copies differ in a few bits, other images in about 32."""

GROUPS_SHOWN = 50

Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
"""Calls a function with each item of a sequence: `map`, or the `map` of a thread pool."""


def evenly_spaced(total: int, most: int) -> NDArray[np.int64]:
    """At most `most` rows of `total`, evenly spaced."""
    return np.unique(np.linspace(0, total - 1, min(total, most)).round().astype(np.int64))


def exact_duplicates(catalog: Catalog, each: Each) -> list[list[str]]:
    """Groups of files with the same bytes; only files of equal length are read."""
    lengths, first, counts = np.unique(catalog.size_bytes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[first] > 1)
    if not len(lengths) or not len(rows):
        return []
    rows = rows[np.argsort(catalog.size_bytes[rows], kind="stable")][:READ_IN_FULL].tolist()

    def digest(row: int) -> bytes | None:
        try:
            return hashlib.blake2b(catalog.source.read(catalog.paths[row])).digest()
        except OSError:
            return None

    groups: dict[bytes, list[str]] = defaultdict(list)
    for row, found in zip(rows, each(digest, rows), strict=True):
        if found is not None:
            groups[found].append(printable(str(catalog.paths[row])))
    return [names for names in groups.values() if len(names) > 1][:GROUPS_SHOWN]


def near_duplicates(catalog: Catalog, each: Each) -> tuple[int, list[list[str]]]:
    """The number of images compared, and groups of images whose perceptual hashes are nearly the same.

    A DCT hash of 64 bits (Zauner 2010, section 3.2.1), as the imagehash library computes it.
    """
    rows = evenly_spaced(len(catalog), COMPARED).tolist()
    found = [
        (row, bits)
        for row, bits in zip(rows, each(lambda row: _look(catalog, row), rows), strict=True)
        if bits is not None
    ]
    if not found:
        return 0, []
    looks = np.stack([bits for _, bits in found])
    apart = (looks[:, None, :] != looks[None, :, :]).sum(axis=2)
    near = np.argwhere(np.triu(apart <= MOST_BITS_APART, k=1)).tolist()
    group_of = list(range(len(found)))
    for one, other in near:
        low, high = sorted((group_of[one], group_of[other]))
        group_of = [low if group == high else group for group in group_of]
    groups: dict[int, list[str]] = defaultdict(list)
    for group, (row, _) in zip(group_of, found, strict=True):
        groups[group].append(printable(str(catalog.paths[row])))
    several = (names for names in groups.values() if len(names) > 1)
    return len(found), list(islice(several, GROUPS_SHOWN))


def _look(catalog: Catalog, row: int) -> NDArray[np.bool_] | None:
    """The 64 bits of image `row`'s perceptual hash; None if it cannot be read."""
    from imagehash import phash
    from PIL import Image

    whole = Geometry(resize=Size(COMPARED_PX, COMPARED_PX), crop=Box(0, 0, COMPARED_PX, COMPARED_PX))
    pixels = thumbnail(catalog, row, whole)
    return None if pixels is None else phash(Image.fromarray(pixels)).hash.reshape(-1)


def thumbnail(catalog: Catalog, row: int, geometry: Geometry) -> NDArray[np.uint8] | None:
    """Image `row`, resized and cropped by `geometry` [H, W, 3]; None if it cannot be read."""
    from helpers.data.images.decode import UnreadableImage, decode

    width, height = catalog.sizes[row].tolist()
    try:
        return decode(catalog.source.read(catalog.paths[row]), size=Size(width, height), geometry=geometry)
    except (OSError, UnreadableImage):
        return None  # encoding will report it with the reason
