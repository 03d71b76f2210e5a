"""What is done to the words of a caption before it is encoded: some are taken out, tags are put in another order."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from helpers.config.datasets.caption_filters import compiled

BYTES_OF_A_DRAW = 4


@dataclass(frozen=True)
class CaptionFilter:
    """Takes out of captions what the entries of a `caption_filter_list` say; `changed` counts captions by entry.

    Its `str` tells what came of it; empty where no caption was looked at.
    """

    entries: Sequence[str]
    changed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        counts = (f"{entry!r} {self.changed[entry]}" for entry in self.entries)
        return f"captions changed by caption_filter_list: {', '.join(counts)}" if self.changed else ""

    def __call__(self, captions: tuple[str, ...]) -> tuple[str, ...]:
        """The captions, filtered, less those of which nothing is left."""
        if not self.entries:
            return captions
        return tuple(filter(None, map(self._filtered, captions)))

    def _filtered(self, caption: str) -> str:
        before = caption
        for entry in self.entries:
            pattern, replacement = compiled(entry)
            found = pattern.sub(replacement, caption)
            self.changed[entry] += found != caption
            caption = found
        return caption if caption == before else " ".join(caption.split())


@dataclass(frozen=True, kw_only=True)
class Shuffle:
    """Puts a caption's tags in `count` orders: the same for the same seed, caption and number, whatever the image.

    keep: so many tags stay first, in their order; separator: what stands between two tags.
    """

    seed: int
    count: int
    keep: int
    separator: str

    def __call__(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Each caption in its first order, then each in its second, and so on."""
        return tuple(self._shuffled(caption, number) for number in range(self.count) for caption in captions)

    def _shuffled(self, caption: str, number: int) -> str:
        tags = [tag for tag in (said.strip() for said in caption.split(self.separator)) if tag]
        moving = tags[self.keep :]
        if len(moving) < 2:
            return caption
        drawn_by = hashlib.shake_128(ascii((self.seed, number, caption)).encode())
        draws = np.frombuffer(drawn_by.digest(BYTES_OF_A_DRAW * len(moving)), "<u4")
        order = np.argsort(draws, kind="stable").tolist()
        between = self.separator + " " if self.separator.strip() else self.separator
        return between.join(chain(tags[: self.keep], (moving[place] for place in order)))
