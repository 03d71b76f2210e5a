"""Collects the view of a dataset for datasets.html, from evenly spaced samples if the dataset is large."""

import base64
import hashlib
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from helpers.data.columns import printable
from helpers.data.report.duplicates import Each, evenly_spaced, exact_duplicates, near_duplicates, thumbnail
from helpers.data.types import Box, Bucket, Catalog, Geometry, Rejected, Size
from helpers.reporting.pages.datasets_page import (
    ASPECT_BARS,
    BucketView,
    CaptionLengths,
    DatasetView,
    Thumbnail,
    aspect_bar,
)

SAMPLED = 2_000
"""The most images whose sizes and captions are used."""

BUCKETS_IMAGED, IMAGES_EACH, IMAGES_IN_ALL = 24, 8, 120
THUMBNAIL_PX = 112

WORDS_SHOWN = 60
WORD = re.compile(r"[^\W\d_][\w'’-]+")
STOP_WORDS = (
    *("an", "and", "are", "at", "by", "for", "from", "his", "her", "in", "is", "it", "its", "of", "on", "or", "the"),
    *("their", "this", "to", "with"),
)


def survey(
    catalog: Catalog, *, notes: Sequence[str], lengths: Sequence[CaptionLengths] = (), workers: int = 1
) -> DatasetView:
    """The view of `catalog` for the page. notes: how each bucket is used; lengths: of its captions, in tokens."""
    rows = evenly_spaced(len(catalog), SAMPLED)
    sizes = catalog.sizes[rows]
    with ThreadPoolExecutor(workers) as threads:
        compared, alike = near_duplicates(catalog, threads.map)
        return DatasetView(
            id=catalog.dataset_id,
            place=catalog.source.describe(),
            images=len(catalog),
            ignored=catalog.ignored,
            buckets=_buckets(catalog, notes=notes, each=threads.map),
            sizes=[(width, height) for width, height in sizes.tolist()],
            aspects=_aspects(catalog.sizes),
            lengths=lengths,
            words=_words(catalog, rows),
            looked_at=len(rows),
            compared=compared,
            twins=exact_duplicates(catalog, threads.map),
            alike=alike,
            rejected=_by_reason(catalog.rejected),
        )


def fingerprint(catalogs: Sequence[Catalog], *, notes: Sequence[Sequence[str]]) -> str:
    """A hash of everything that the surveys depend on: the files, crops, a sample of the captions, and the notes."""
    digest = hashlib.blake2b(digest_size=16)
    for catalog, bucket_notes in zip(catalogs, notes, strict=True):
        rows = evenly_spaced(len(catalog), SAMPLED)
        captions = [catalog.captions_of(int(row)) for row in rows]
        names = [(image.path, image.reason) for image in catalog.rejected]
        for part in (catalog.dataset_id, len(catalog), catalog.ignored, captions, names, list(bucket_notes)):
            digest.update(repr(part).encode("utf-8", "surrogateescape"))
        for column in (catalog.size_bytes, catalog.sizes, catalog.geometries):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _aspects(sizes: NDArray[np.int32]) -> list[int]:
    """The number of images per aspect ratio, by `aspect_bar`."""
    shapes, counts = np.unique((sizes[:, 0] / sizes[:, 1]).round(3), return_counts=True)
    bars = [0] * ASPECT_BARS
    for shape, count in zip(shapes.tolist(), counts.tolist(), strict=True):
        bars[aspect_bar(max(shape, 0.001))] += count
    return bars


def _words(catalog: Catalog, rows: NDArray[np.int64]) -> list[tuple[str, float]]:
    """The most common words, with the fraction of images whose captions contain them."""
    counts: Counter[str] = Counter()
    for row in rows.tolist():
        text = " ".join(catalog.captions_of(row)).casefold()
        counts.update(set(WORD.findall(text)).difference(STOP_WORDS))
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:WORDS_SHOWN]
    return [(word, count / len(rows)) for word, count in common if count > 1 or len(rows) == 1]


def _by_reason(rejected: Sequence[Rejected]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = defaultdict(list)
    for image in rejected:
        names[image.reason].append(printable(image.path))
    return names


def _buckets(catalog: Catalog, *, notes: Sequence[str], each: Each) -> list[BucketView]:
    """The buckets, largest first, with thumbnails for the first ones."""
    order = sorted(range(len(catalog.buckets)), key=lambda number: -len(catalog.buckets[number]))
    imaged = order[:BUCKETS_IMAGED]
    share = max(1, min(IMAGES_EACH, IMAGES_IN_ALL // len(imaged))) if imaged else 0
    make = partial(_thumbnail, catalog)
    thumbnails: Mapping[int, list[Thumbnail]] = {
        number: [image for image in each(make, _some(catalog.buckets[number], share)) if image] for number in imaged
    }
    return [
        BucketView(
            width=catalog.buckets[number].size.width,
            height=catalog.buckets[number].size.height,
            images=len(catalog.buckets[number]),
            note=notes[number],
            thumbnails=thumbnails.get(number, []),
        )
        for number in order
    ]


def _some(bucket: Bucket, most: int) -> list[int]:
    return bucket.images[evenly_spaced(len(bucket), most)].tolist()


def _thumbnail(catalog: Catalog, row: int) -> Thumbnail | None:
    """A small version of image `row`, cropped as for training; None if it cannot be read."""
    from PIL import Image

    geometry = catalog.geometry(row)
    pixels = thumbnail(catalog, row, _shrunk(geometry, THUMBNAIL_PX))
    if pixels is None:
        return None
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(content, "JPEG", quality=80)
    data_url = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
    text = f"{printable(catalog.paths[row])}: {catalog.captions_of(row)[0]}"
    return Thumbnail(data_url=data_url, width=image.width, height=image.height, text=text)


def _shrunk(geometry: Geometry, longest_px: int) -> Geometry:
    """The same crop, scaled so that its longer edge is at most `longest_px`."""
    scale = min(1.0, longest_px / max(geometry.target))
    width, height = (max(1, round(edge * scale)) for edge in geometry.target)
    left, top = round(geometry.crop.left * scale), round(geometry.crop.top * scale)
    resize = Size(
        max(left + width, round(geometry.resize.width * scale)),
        max(top + height, round(geometry.resize.height * scale)),
    )
    return Geometry(resize=resize, crop=Box(left, top, left + width, top + height))
