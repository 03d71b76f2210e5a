"""Computes what `OUTPUT_DIR/datasets.html` shows: the images and captions that a run trains on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from helpers.reporting.pages.charts import Tick, histogram, powers_of_two, scatter
from helpers.reporting.pages.template import render

BUCKETS_SHOWN = 40
ASPECTS = ((0.25, "1:4"), (0.5, "1:2"), (2 / 3, "2:3"), (1.0, "1:1"), (1.5, "3:2"), (2.0, "2:1"), (4.0, "4:1"))
ASPECT_BARS = 32
LENGTH_BARS = 40
NAMES_SHOWN = 500


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A cropped image, scaled down. data_url: the image; text: its file name and caption."""

    data_url: str
    width: int
    height: int
    text: str


@dataclass(frozen=True, kw_only=True)
class BucketView:
    """The images trained on at one size in pixels. note: batches and repeats, for example."""

    width: int
    height: int
    images: int
    note: str
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True, kw_only=True)
class CaptionLengths:
    """The lengths of captions in tokens of one tokenizer, and the limit at which they are truncated."""

    tokenizer: str
    limit: int
    lengths: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class DatasetView:
    """What the page shows of one dataset.

    sizes: width and height in pixels of some images; aspects: counts by bar, see `aspect_bar`;
    words: the most common ones, each with the share of captions that contain it; twins: groups of files with the same
    content; alike: groups of similar images.
    looked_at: the number of images sampled for `sizes` and `words`; compared: for `twins` and `alike`.
    rejected: names of files by reason.
    """

    id: str
    place: str
    images: int
    ignored: int
    buckets: Sequence[BucketView]
    sizes: Sequence[tuple[int, int]]
    aspects: Sequence[int]
    lengths: Sequence[CaptionLengths]
    words: Sequence[tuple[str, float]]
    looked_at: int
    compared: int
    twins: Sequence[Sequence[str]]
    alike: Sequence[Sequence[str]]
    rejected: Mapping[str, Sequence[str]] = field(default_factory=dict)


def aspect_bar(aspect: float) -> int:
    """The bar of the plot for an aspect ratio (width / height): from 1:4 to 4:1, in equal ratios."""
    return min(ASPECT_BARS - 1, max(0, int((math.log2(aspect) + 2) / 4 * ASPECT_BARS)))


def datasets_page(views: Sequence[DatasetView], *, fingerprint: str) -> str:
    """The HTML page; `fingerprint` of its content is in a comment at its start."""
    images = sum(view.images for view in views)
    left_out = sum(len(names) for view in views for names in view.rejected.values())
    summary = f"{images:,} images in {len(views)} dataset{'s' if len(views) != 1 else ''}"
    return render(
        "datasets.html.j2",
        note=f"fingerprint {fingerprint}",
        summary=f"{summary}, {left_out:,} left out" if left_out else summary,
        datasets=[_dataset(view) for view in views],
        names_shown=NAMES_SHOWN,
    )


def _dataset(view: DatasetView) -> Mapping[str, Any]:
    """The values that the template needs besides `view`."""
    left_out = sum(map(len, view.rejected.values()))
    figures = [(f"{view.images:,}", "images"), (f"{len(view.buckets):,}", "training sizes")]
    figures += [(f"{left_out:,}", "left out"), (f"{view.ignored:,}", "other files ignored")]
    return {
        "view": view,
        "figures": figures,
        "buckets": view.buckets[:BUCKETS_SHOWN],
        "more_buckets": max(0, len(view.buckets) - BUCKETS_SHOWN),
        "resolutions": _resolutions(view),
        "aspects": _aspects(view),
        "captions": [_lengths(lengths) for lengths in view.lengths],
        "rejected": sorted(view.rejected.items(), key=lambda item: -len(item[1])),
    }


def _resolutions(view: DatasetView) -> Markup:
    edges = [edge for size in view.sizes for edge in size] + [e for b in view.buckets for e in (b.width, b.height)]
    first, last = powers_of_two(min(edges), max(edges))

    def place(pixels: float) -> float:
        return (math.log2(pixels) - first) / (last - first)

    ticks = [Tick(at=(power - first) / (last - first), label=f"{2**power}") for power in range(first, last + 1)]
    return scatter(
        [(place(width), place(height)) for width, height in view.sizes],
        crosses=[(place(bucket.width), place(bucket.height)) for bucket in view.buckets[:BUCKETS_SHOWN]],
        ticks=ticks,
        sides=ticks,
        label="width and height of the files in pixels, with the training sizes",
    )


def _aspects(view: DatasetView) -> Markup:
    ticks = [Tick(at=(math.log2(aspect) + 2) / 4, label=name) for aspect, name in ASPECTS]
    return histogram(view.aspects, ticks=ticks, label="aspect ratios of the files, width to height")


def _lengths(captions: CaptionLengths) -> Mapping[str, Any]:
    longest = max([captions.limit, *captions.lengths])
    width = max(1, math.ceil((longest + 1) / LENGTH_BARS))
    counts = [0] * math.ceil((longest + 1) / width)
    for length in captions.lengths:
        counts[length // width] += 1
    span = len(counts) * width
    truncated = sum(length > captions.limit for length in captions.lengths)
    ticks = [Tick(at=0, label="0"), Tick(at=1, label=f"{span}")]
    mark = Tick(at=min(1.0, captions.limit / span), label=f"limit {captions.limit}")
    summary = (
        f"{truncated:,} of {len(captions.lengths):,} are truncated at {captions.limit}"
        if truncated
        else "none is truncated"
    )
    chart = histogram(counts, ticks=ticks, marks=[mark], label=f"lengths of captions in tokens; {summary}")
    return {"tokenizer": captions.tokenizer, "chart": chart, "truncated": truncated, "summary": summary}
