"""The page that shows what a run trains on: `OUTPUT_DIR/datasets.html`."""

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
    """An image as it is cropped. data_url: the image itself; text: its name and caption."""

    data_url: str
    width: int
    height: int
    text: str


@dataclass(frozen=True, kw_only=True)
class BucketView:
    """The images trained on at one size; note: what the plan does with them, in words."""

    width: int
    height: int
    images: int
    note: str
    thumbnails: Sequence[Thumbnail]


@dataclass(frozen=True, kw_only=True)
class CaptionLengths:
    """Lengths of captions as one tokenizer counts them, and how many tokens it keeps."""

    tokenizer: str
    limit: int
    lengths: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class DatasetView:
    """One dataset, as far as a page shows it.

    sizes: width and height in pixels of some images; aspects: counts by bar, see `aspect_bar`;
    words: the commonest, with the share of captions that say them; twins: groups of names of the same content;
    alike: of nearly the same look.
    looked_at: how many images were sampled for `sizes` and words, compared: how many for `twins` and `alike`.
    rejected: reasons with the names.
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
    """Which bar of the plot an image's width / height falls in: from 1:4 to 4:1, in equal ratios."""
    return min(ASPECT_BARS - 1, max(0, int((math.log2(aspect) + 2) / 4 * ASPECT_BARS)))


def datasets_page(views: Sequence[DatasetView], *, fingerprint: str) -> str:
    """The whole page; `fingerprint` of what it shows stands in its first lines."""
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
    """What the template shows of a dataset beside `view` itself."""
    left_out = sum(map(len, view.rejected.values()))
    figures = [(f"{view.images:,}", "images"), (f"{len(view.buckets):,}", "sizes trained on")]
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
        label="width and height of the files in pixels, with the sizes trained on",
    )


def _aspects(view: DatasetView) -> Markup:
    ticks = [Tick(at=(math.log2(aspect) + 2) / 4, label=name) for aspect, name in ASPECTS]
    return histogram(view.aspects, ticks=ticks, label="how many files have which shape, width to height")


def _lengths(captions: CaptionLengths) -> Mapping[str, Any]:
    longest = max([captions.limit, *captions.lengths])
    width = max(1, math.ceil((longest + 1) / LENGTH_BARS))
    counts = [0] * math.ceil((longest + 1) / width)
    for length in captions.lengths:
        counts[length // width] += 1
    span = len(counts) * width
    cut = sum(length > captions.limit for length in captions.lengths)
    ticks = [Tick(at=0, label="0"), Tick(at=1, label=f"{span}")]
    mark = Tick(at=min(1.0, captions.limit / span), label=f"limit {captions.limit}")
    summary = f"{cut:,} of {len(captions.lengths):,} are cut at {captions.limit}" if cut else "none is cut"
    chart = histogram(counts, ticks=ticks, marks=[mark], label=f"lengths of captions in tokens; {summary}")
    return {"tokenizer": captions.tokenizer, "chart": chart, "cut": cut, "summary": summary}
