"""The validation images of run.html by prompt and step, scaled down so that the page can contain them."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.reporting.pages.run_history import SavedImage

IMAGES = 96
STEPS_SHOWN = 12
ROWS_SHOWN = 24
EDGE = 384
QUALITY = 80
SEED = re.compile(r"seed\d+")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The images of one prompt at one size, in the order of their steps."""

    caption: str
    images: Sequence[SavedImage]


@dataclass(frozen=True, kw_only=True)
class Small:
    """A scaled-down image as a data URL. step: its label, such as `step 100`."""

    step: str
    data_url: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class PromptCard:
    """The images of one prompt, for the slider between two steps and the list of steps."""

    caption: str
    images: Sequence[Small]


def rows_of(images: Sequence[SavedImage]) -> list[Row]:
    """The prompts in the order of the newest images, followed by those that are no longer generated.

    Images of one prompt with a different seed each time are one row. Prompts with images of the base model only are
    left out, unless there are no others.
    """
    newest = max((each.step for each in images), default=0)
    found: dict[tuple[str, str, int], dict[int, SavedImage]] = {}
    for each in images:
        name, number = SEED.sub("", Path(each.file).name), 0
        while each.step in found.get((name, each.caption, number), {}):
            number += 1
        found.setdefault((name, each.caption, number), {})[each.step] = each
    rows = [Row(caption=key[1], images=[by[step] for step in sorted(by)]) for key, by in found.items()]
    current = [row for row in rows if row.images[-1].step == newest]
    return current + [row for row in rows if 0 < row.images[-1].step < newest]


def evenly(row: Row, *, most: int) -> list[SavedImage]:
    """At most `most` images of a row: the first, the last, and evenly spaced ones between."""
    count = len(row.images)
    if count <= most:
        return list(row.images)
    return [row.images[round(number * (count - 1) / (most - 1))] for number in range(most)]


class SmallImages:
    """Scales images down, each once; keeps only those of the last request."""

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir
        self._scaled: dict[tuple[int, str], Small] = {}

    def of(self, requested: Sequence[SavedImage]) -> Mapping[tuple[int, str], Small]:
        """The images by step and file, without those whose file is gone."""
        scaled: dict[tuple[int, str], Small] = {}
        for each in requested:
            key = (each.step, each.file)
            known = self._scaled.get(key) or _small(self._folder / each.file, step=each.step)
            if known is not None:
                scaled[key] = known
        self._scaled = scaled
        return scaled

    def forget(self, step: int, file: str) -> None:
        """Forget an image that was generated again."""
        self._scaled.pop((step, file), None)


def _small(path: Path, *, step: int) -> Small | None:
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except OSError:
        return None
    image.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, format="WEBP", quality=QUALITY)
    data = base64.b64encode(content.getvalue()).decode()
    return Small(
        step=f"step {step:,}" if step else "base",
        data_url=f"data:image/webp;base64,{data}",
        width=image.width,
        height=image.height,
    )


def prompt_cards(images: Sequence[SavedImage], *, small: SmallImages) -> tuple[list[PromptCard], int]:
    """A card for each prompt that has images, and the number of prompts that are not shown."""
    rows = rows_of(images)
    shown = rows[:ROWS_SHOWN]
    most = max(3, min(STEPS_SHOWN, IMAGES // max(1, len(shown))))
    chosen = [evenly(row, most=most) for row in shown]
    scaled = small.of([each for images in chosen for each in images])
    cards = [
        PromptCard(
            caption=row.caption, images=[scaled[key] for each in images if (key := (each.step, each.file)) in scaled]
        )
        for row, images in zip(shown, chosen, strict=True)
    ]
    return [card for card in cards if card.images], len(rows) - len(shown)
