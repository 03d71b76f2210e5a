"""Keys of the dataset file that this program knows of but that are no field of a local dataset."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class UnsupportedKey:
    """A key of which only the values that ask for nothing are accepted so far.

    harmless: those values; `reason` and `fix` are told for any other.
    """

    harmless: tuple[Any, ...]
    reason: str = "not supported yet"
    fix: str = "leave this key out"


EVERY_ENTRY = ("type", "dataset_type", "disabled", "disable", "preserve_data_backend_cache")
"""Keys that are read before an entry's own; the last keeps caches, which are always kept here."""

ACCEPTED_ONLY = ("hash_filenames",)
"""Keys of an image entry that change nothing: cached files carry hashes as names in any case."""

DATASET_TYPES = ("image", "text_embeds", "image_embeds", "eval")
STORAGE_TYPES = ("local", "aws", "csv", "huggingface")
SKIPPABLE = ("vae", "aspect", "metadata", "text")
"""The words of `skip_file_discovery`."""

LATER_IMAGE_KEYS = {
    "conditioning_data": UnsupportedKey(
        harmless=(None, ""), reason="conditioning images train a ControlNet, which is no part of this program"
    ),
}

LATER_TEXT_KEYS: dict[str, UnsupportedKey] = {}
