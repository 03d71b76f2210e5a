"""Captions from file names, text files, a table or one prompt for all images, filtered and with shuffled tags."""

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
    """Applies the entries of a `caption_filter_list` to captions; `changed` counts the changed captions by entry.

    `str()` gives a summary; empty if no caption was filtered.
    """

    entries: Sequence[str]
    changed: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        counts = (f"{entry!r} {self.changed[entry]}" for entry in self.entries)
        return f"captions changed by caption_filter_list: {', '.join(counts)}" if self.changed else ""

    def __call__(self, captions: tuple[str, ...]) -> tuple[str, ...]:
        """The filtered captions, without those that became empty."""
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
    """Shuffles a caption's tags into `count` orders, which depend only on the seed, the caption and the order's number.

    keep: the number of tags that stay first, in their order; separator: the text between two tags.
    """

    seed: int
    count: int
    keep: int
    separator: str

    def __call__(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Every caption in its first order, then every caption in its second, and so on."""
        return tuple(self._shuffled(caption, number) for number in range(self.count) for caption in captions)

    def _shuffled(self, caption: str, number: int) -> str:
        tags = [tag for tag in (part.strip() for part in caption.split(self.separator)) if tag]
        moving = tags[self.keep :]
        if len(moving) < 2:
            return caption
        random_bytes = hashlib.shake_128(ascii((self.seed, number, caption)).encode())
        keys = np.frombuffer(random_bytes.digest(BYTES_PER_KEY * len(moving)), "<u4")
        order = np.argsort(keys, kind="stable").tolist()
        between = self.separator + " " if self.separator.strip() else self.separator
        return between.join(chain(tags[: self.keep], (moving[place] for place in order)))


class MissingCaption(Exception):
    """An image without a caption; `reason` says why, as a phrase that follows the image's name."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """Where captions come from (`strategy`, as in the dataset file) and how they are processed.

    prompt: the instance prompt, empty if not set; prepend: whether to put it before each caption;
    fallback: whether an image without a text file, or without a caption in its table, uses its file name.
    filters: the entries of a caption_filter_list; shuffle: shuffles the tags.
    """

    strategy: str
    prompt: str = ""
    prepend: bool = False
    fallback: bool = False
    filters: Sequence[str] = ()
    shuffle: Shuffle | None = None


def caption_rules(dataset: ImageDataset, *, seed: int, filters: Sequence[str] = ()) -> CaptionRules:
    """The caption rules of a dataset; `seed` determines the order of tags."""
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
    """The file name without its extension, with underscores as spaces; empty if nothing is left.

    A name that is not UTF-8 is read as Latin-1, the most common encoding of such names.
    """
    stem = encode_name(os.path.splitext(os.path.basename(path))[0])
    try:
        name = stem.decode("utf-8")
    except UnicodeDecodeError:
        name = stem.decode("latin-1")
    return " ".join(name.replace("_", " ").split())


def captions_for(path: str, note: bytes | None, *, rules: CaptionRules) -> tuple[str, ...]:
    """The captions of an image: the lines of `note`, or its file name; raises MissingCaption.

    note: the content of its text file, or its captions in a table; None if there is none or it is not used.
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
    """The lines of a UTF-8 text that are not blank."""
    lines = (line.strip() for line in content.decode().removeprefix("\ufeff").splitlines())
    return tuple(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class ConstantCaption:
    """The same caption for every image."""

    prompt: str

    def __call__(self, index: int) -> tuple[str, ...]:
        return (self.prompt,)


@dataclass(frozen=True, slots=True)
class CaptionColumn:
    """The captions of image `i`: the lines of item `i`, each in all its shuffled orders, prefixed with `prefix`."""

    texts: TextColumn
    prefix: str = ""
    shuffle: Shuffle | None = None

    def __call__(self, index: int) -> tuple[str, ...]:
        lines = self.texts[index].split("\n")
        return tuple(self.prefix + line for line in (self.shuffle(lines) if self.shuffle else lines))


def captions_from_lines(texts: TextColumn, *, rules: CaptionRules) -> CaptionColumn:
    """A column of captions that are already joined by line breaks."""
    return CaptionColumn(texts, f"{rules.prompt} " if rules.prepend else "", rules.shuffle)


def caption_column(captions: Iterable[tuple[str, ...]], *, rules: CaptionRules) -> CaptionColumn:
    """A column of the captions of each image."""
    encoded = BytesColumn.of("\n".join(lines).encode() for lines in captions)
    return captions_from_lines(TextColumn(encoded), rules=rules)


BYTES_PER_KEY = 4
