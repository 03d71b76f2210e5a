"""The page that shows what a run trains on: `OUTPUT_DIR/datasets.html`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from helpers.reporting.pages.charts import Tick, histogram, powers_of_two, scatter
from helpers.reporting.pages.html import escape, image, page, section, tiles

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
    body = [
        "<h1>Datasets</h1>",
        f'<p class="soft">{images:,} images in {len(views)} dataset{"s" if len(views) != 1 else ""}'
        f"{f', {left_out:,} left out' if left_out else ''}</p>",
    ]
    for view in views:
        body += _dataset(view)
    return page("Datasets", body=body, note=f"fingerprint {fingerprint}")


def _dataset(view: DatasetView) -> list[str]:
    left_out = sum(map(len, view.rejected.values()))
    figures = [(f"{view.images:,}", "images"), (f"{len(view.buckets):,}", "sizes trained on")]
    figures += [(f"{left_out:,}", "left out"), (f"{view.ignored:,}", "other files ignored")]
    return [
        f'<h2>{escape(view.id)}</h2><p class="soft path">{escape(view.place)}</p>',
        tiles(figures),
        section("Sizes trained on, and how images are cut for them", content=_buckets(view.buckets)),
        '<div class="cards" style="margin-top:.75rem">',
        section("Resolution of the files", content=_resolutions(view)),
        section("Shapes of the files", content=_aspects(view)),
        *(section(f"Captions in tokens of {lengths.tokenizer}", content=_lengths(lengths)) for lengths in view.lengths),
        section("Commonest words", content=_words(view)),
        section("The same image twice", content=_twins(view)),
        section("Left out", content=_rejected(view.rejected)),
        "</div>",
    ]


def _buckets(buckets: Sequence[BucketView]) -> str:
    parts = [
        f"<h4>{bucket.width}x{bucket.height} <span>{escape(bucket.note)}</span></h4>"
        + '<div class="images">'
        + "".join(
            image(each.data_url, text=each.text, width=each.width, height=each.height) for each in bucket.thumbnails
        )
        + "</div>"
        for bucket in buckets[:BUCKETS_SHOWN]
    ]
    more = len(buckets) - BUCKETS_SHOWN
    return "".join(parts) + (f'<p class="soft">and {more} sizes more, with fewer images</p>' if more > 0 else "")


def _resolutions(view: DatasetView) -> str:
    edges = [edge for size in view.sizes for edge in size] + [e for b in view.buckets for e in (b.width, b.height)]
    first, last = powers_of_two(min(edges), max(edges))

    def place(pixels: float) -> float:
        return (math.log2(pixels) - first) / (last - first)

    ticks = [Tick(at=(power - first) / (last - first), label=f"{2**power}") for power in range(first, last + 1)]
    return (
        scatter(
            [(place(width), place(height)) for width, height in view.sizes],
            crosses=[(place(bucket.width), place(bucket.height)) for bucket in view.buckets[:BUCKETS_SHOWN]],
            ticks=ticks,
            sides=ticks,
            label="width and height of the files in pixels, with the sizes trained on",
        )
        + f'<p class="soft">width and height in pixels, of {view.looked_at:,} images; '
        "crosses are the sizes trained on</p>"
    )


def _aspects(view: DatasetView) -> str:
    ticks = [Tick(at=(math.log2(aspect) + 2) / 4, label=name) for aspect, name in ASPECTS]
    return histogram(view.aspects, ticks=ticks, label="how many files have which shape, width to height")


def _lengths(captions: CaptionLengths) -> str:
    longest = max([captions.limit, *captions.lengths])
    width = max(1, math.ceil((longest + 1) / LENGTH_BARS))
    counts = [0] * math.ceil((longest + 1) / width)
    for length in captions.lengths:
        counts[length // width] += 1
    span = len(counts) * width
    cut = sum(length > captions.limit for length in captions.lengths)
    ticks = [Tick(at=0, label="0"), Tick(at=1, label=f"{span}")]
    mark = Tick(at=min(1.0, captions.limit / span), label=f"limit {captions.limit}")
    said = f"{cut:,} of {len(captions.lengths):,} are cut at {captions.limit}" if cut else "none is cut"
    chart = histogram(counts, ticks=ticks, marks=[mark], label=f"lengths of captions in tokens; {said}")
    return f'{chart}<p class="{"warn" if cut else "soft"}">{said}</p>'


def _words(view: DatasetView) -> str:
    if not view.words:
        return ""
    listed = ", ".join(f"{escape(word)} <span class=soft>{share:.0%}</span>" for word, share in view.words)
    return f'<p>{listed}</p><p class="soft">with the share of {view.looked_at:,} images\' captions that say them</p>'


def _twins(view: DatasetView) -> str:
    def listed(groups: Sequence[Sequence[str]]) -> str:
        return "<ul>" + "".join(f'<li class="path">{escape(", ".join(names))}</li>' for names in groups) + "</ul>"

    said = ""
    if view.twins:
        said += f"<p>Of the same content, byte for byte:</p>{listed(view.twins)}"
    if view.alike:
        said += f"<p>Of nearly the same look:</p>{listed(view.alike)}"
    none = "" if said else "<p>None was found.</p>"
    return f'{said}{none}<p class="soft">{view.compared:,} images were compared by their look</p>'


def _rejected(rejected: Mapping[str, Sequence[str]]) -> str:
    parts = []
    for reason, names in sorted(rejected.items(), key=lambda item: -len(item[1])):
        shown = "".join(f'<li class="path">{escape(name)}</li>' for name in names[:NAMES_SHOWN])
        more = f"<li>and {len(names) - NAMES_SHOWN:,} more</li>" if len(names) > NAMES_SHOWN else ""
        opened = " open" if len(names) <= 5 else ""
        parts.append(
            f"<details{opened}><summary>{escape(reason)}: {len(names):,}</summary><ul>{shown}{more}</ul></details>"
        )
    return "".join(parts)
