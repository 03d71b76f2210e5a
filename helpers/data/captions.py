"""Captions: from file names, text files, a table or one prompt for all; filtered and with shuffled tags."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from helpers.config.datasets.caption_filters import compiled
from helpers.config.datasets.types import ImageDataset
from helpers.data.columns import BytesColumn, TextColumn, encode_name
from helpers.data.rejections import EMPTY_CAPTION_FILE, FOREIGN_CAPTION_FILE, NO_CAPTION_FILE, SILENT_NAME


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


class MissingCaption(Exception):
    """An image nothing is said of; `reason` says why, in words that go on from its name."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """Where captions come from: `strategy` as in the dataset file, and what is done with them.

    prompt: the instance prompt, empty where there is none; prepend: it is put before each caption;
    fallback: an image without a text file, or a caption in its table, is called by its file name. filters: entries
    of a caption_filter_list; shuffle: what puts tags in other orders.
    """

    strategy: str
    prompt: str = ""
    prepend: bool = False
    fallback: bool = False
    filters: Sequence[str] = ()
    shuffle: Shuffle | None = None


def caption_rules(dataset: ImageDataset, *, seed: int, filters: Sequence[str] = ()) -> CaptionRules:
    """The rules a dataset states; `seed` decides orders of tags."""
    shuffle = Shuffle(
        seed=seed,
        count=dataset.caption_shuffle_count,
        keep=dataset.caption_keep_tokens,
        separator=dataset.caption_separator,
    )
    return CaptionRules(
        strategy="instanceprompt" if dataset.only_instance_prompt else dataset.caption_strategy,
        prompt=dataset.instance_prompt or "",
        prepend=dataset.prepend_instance_prompt,
        fallback=dataset.caption_fallback,
        filters=filters,
        shuffle=shuffle if dataset.caption_shuffle else None,
    )


def caption_from_name(path: str) -> str:
    """The file's name without its ending, with spaces for underscores; empty where nothing is left.

    A name that is not UTF-8 is read as Latin-1, which such names mostly are.
    """
    stem = encode_name(os.path.splitext(os.path.basename(path))[0])
    try:
        name = stem.decode("utf-8")
    except UnicodeDecodeError:
        name = stem.decode("latin-1")
    return " ".join(name.replace("_", " ").split())


def captions_for(path: str, note: bytes | None, *, rules: CaptionRules) -> tuple[str, ...]:
    """The captions of an image: the lines of `note`, or what its name says; raises MissingCaption.

    note: its text file, or a table's captions; None where there is none, or none is asked for.
    """
    if rules.strategy != "filename":
        try:
            lines = _lines(note or b"")
        except UnicodeDecodeError as error:
            raise MissingCaption(FOREIGN_CAPTION_FILE) from error
        if lines:
            return lines
        if not rules.fallback:
            raise MissingCaption(NO_CAPTION_FILE if note is None else EMPTY_CAPTION_FILE)
    name = caption_from_name(path)
    if not name:
        raise MissingCaption(SILENT_NAME)
    return (name,)


def _lines(content: bytes) -> tuple[str, ...]:
    """The lines of a UTF-8 text that say something."""
    lines = (line.strip() for line in content.decode().removeprefix("\ufeff").splitlines())
    return tuple(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class ConstantCaption:
    """One caption for every image."""

    prompt: str

    def __call__(self, index: int) -> tuple[str, ...]:
        return (self.prompt,)


@dataclass(frozen=True, slots=True)
class CaptionColumn:
    """The captions of image `i`: the lines of item `i`, each in all its orders, with `prefix` before each."""

    texts: TextColumn
    prefix: str = ""
    shuffle: Shuffle | None = None

    def __call__(self, index: int) -> tuple[str, ...]:
        lines = self.texts[index].split("\n")
        return tuple(self.prefix + line for line in (self.shuffle(lines) if self.shuffle else lines))


def captions_from_lines(texts: TextColumn, *, rules: CaptionRules) -> CaptionColumn:
    """Captions that stand in lines already, as a column."""
    return CaptionColumn(texts, f"{rules.prompt} " if rules.prepend else "", rules.shuffle)


def caption_column(captions: Iterable[tuple[str, ...]], *, rules: CaptionRules) -> CaptionColumn:
    """Captions of each image, as a column."""
    encoded = BytesColumn.of("\n".join(lines).encode() for lines in captions)
    return captions_from_lines(TextColumn(encoded), rules=rules)


BYTES_OF_A_DRAW = 4
