"""The entries of the dataset file: each one's type, with its keys checked and filled in."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from helpers.config.datasets.types import (
    KINDS_OF_DATASET,
    KINDS_OF_IMAGE_STORE,
    KINDS_OF_TEXT_STORE,
    OUTPUT_DIR,
    CsvDataset,
    EmbedsStore,
    ImageDataset,
    TableFile,
    TextEmbedsStore,
    is_secret,
)
from helpers.config.suggestions import did_you_mean
from helpers.config.train_config import RunConfig
from helpers.errors import Problem

FROM_DATA_OPTIONS = (
    "resolution",
    "resolution_type",
    "minimum_image_size",
    "aspect_bucket_alignment",
    "aspect_bucket_rounding",
    "caption_strategy",
    "instance_prompt",
    "prepend_instance_prompt",
    "only_instance_prompt",
    "caption_shuffle",
    "caption_shuffle_count",
    "caption_keep_tokens",
    "caption_separator",
    "skip_file_discovery",
)

KINDS = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "text in quotes",
    "path_type": "a folder's name in quotes",
    "is_instance_of": "a folder's name in quotes",
    "tuple_type": "a list of numbers, such as [0.75, 1.0, 1.5]",
    "model_type": 'an object such as { "path": … }',
    "string_too_short": "at least one letter",
}
"""pydantic's types of errors, and what is expected instead."""

UNQUOTED = ("bool_type", "int_type", "float_type")

Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class UnsupportedKey:
    """A key that is supported only with values that have no effect.

    harmless: those values; `reason` and `fix` are the error for any other.
    """

    harmless: tuple[Any, ...]
    reason: str = "not supported yet"
    fix: str = "remove this key"


EVERY_ENTRY = ("type", "dataset_type", "disabled", "disable", "preserve_data_backend_cache")
"""Keys of every entry. The last one has no effect: caches are always kept."""

ACCEPTED_ONLY = ("hash_filenames",)
"""Keys of an image entry without effect: cached files always have hashes as names."""

DATASET_TYPES = ("image", "text_embeds", "image_embeds", "eval")
SKIPPABLE = ("vae", "aspect", "metadata", "text")
"""The values of `skip_file_discovery`."""

LATER_IMAGE_KEYS = {
    "conditioning_data": UnsupportedKey(
        harmless=(None, ""), reason="conditioning images train a ControlNet, which this program does not train"
    ),
}

LATER_TEXT_KEYS: dict[str, UnsupportedKey] = {}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry as written, with its name for messages."""

    file: str
    name: str
    values: dict[str, Any]

    @property
    def is_eval(self) -> bool:
        """Whether its images are held out from training."""
        return self.values.get("dataset_type") == "eval"

    def problem(self, key: str, *, reason: str, fix: str) -> Problem:
        """A problem with this entry's `key`."""
        value = json.dumps(self.values[key], ensure_ascii=False) if key in self.values and not is_secret(key) else ""
        return Problem(option=f"{self.file}: entry {self.name}, key {key}", value=value, reason=reason, fix=fix)


@dataclass(frozen=True)
class SortedEntries:
    """The enabled entries: of images (including eval), of text caches, of latent caches."""

    images: list[Entry] = field(default_factory=list)
    texts: list[Entry] = field(default_factory=list)
    latents: list[Entry] = field(default_factory=list)

    def of(self, dataset_type: Any) -> list[Entry]:
        """The list for `dataset_type`."""
        return {"text_embeds": self.texts, "image_embeds": self.latents}.get(dataset_type, self.images)


def sort_entries(listed: list[Any], *, file: str, problems: list[Problem]) -> SortedEntries:
    """The entries by dataset type; those that cannot be used become problems."""
    found = SortedEntries()
    for number, each in enumerate(listed, 1):
        if not isinstance(each, dict):
            fix = 'write it as { "id": …, … }'
            problems.append(
                Problem(option=f"{file}: entry {number}", value=str(each), reason="it is not an object", fix=fix)
            )
            continue
        name = each.get("id")
        entry = Entry(file=file, name=name if isinstance(name, str) and name else f"number {number}", values=each)
        if each.get("disabled") is True or each.get("disable") is True:
            continue
        if _usable(entry, problems=problems):
            found.of(each.get("dataset_type")).append(entry)
    _check_ids([*found.images, *found.texts, *found.latents], problems=problems)
    return found


def read_image_entry(
    entry: Entry, *, config: RunConfig, output_dir: Path, problems: list[Problem]
) -> ImageDataset | None:
    """The dataset that `entry` describes; None if required keys are missing.

    A key with a wrong value is reported and then counts as not set, so that the other keys can be checked.
    """
    defaults: dict[str, Any] = {name: getattr(config.data, name) for name in FROM_DATA_OPTIONS}
    kind = KINDS_OF_DATASET[entry.values["type"]]
    if kind.brings_captions:
        del defaults["caption_strategy"]
    if kind is CsvDataset:
        defaults["csv_cache_dir"] = output_dir / "cache" / "downloads" / entry.name
    defaults |= {
        "vae_batch_size": config.cache.vae_batch_size,
        "write_batch_size": config.cache.write_batch_size,
        "cache_dir_vae": output_dir / "cache" / "vae" / entry.name,
    }
    values = _without_later(entry, later=LATER_IMAGE_KEYS, also=(*EVERY_ENTRY, *ACCEPTED_ONLY), problems=problems)
    return _validated(kind, entry, values=values, defaults=defaults, output_dir=output_dir, problems=problems)


def read_text_entry(
    entry: Entry, *, config: RunConfig, output_dir: Path, problems: list[Problem]
) -> TextEmbedsStore | None:
    """The text cache that `entry` describes; None if required keys are missing."""
    defaults: dict[str, Any] = {
        "cache_dir": output_dir / "cache" / _default_folder(entry, "text"),
        "write_batch_size": config.cache.write_batch_size,
    }
    kind = KINDS_OF_TEXT_STORE.get(entry.values.get("type", "local"))
    if kind is None:
        problems.append(_no_store(entry))
        return None
    if not isinstance(entry.values.get("default", True), bool):
        problems.append(entry.problem("default", reason="it must be true or false", fix="write it without quotes"))
    values = _without_later(entry, later=LATER_TEXT_KEYS, also=(*EVERY_ENTRY, "default"), problems=problems)
    return _validated(kind, entry, values=values, defaults=defaults, output_dir=output_dir, problems=problems)


def read_latents_entry(
    entry: Entry, *, config: RunConfig, output_dir: Path, problems: list[Problem]
) -> EmbedsStore | None:
    """The latent cache that `entry` describes; None if required keys are missing."""
    kind = KINDS_OF_IMAGE_STORE.get(entry.values["type"])
    if kind is None:
        problems.append(_no_store(entry))
        return None
    defaults: dict[str, Any] = {
        "cache_dir": output_dir / "cache" / _default_folder(entry, f"vae/{entry.name}"),
        "write_batch_size": config.cache.write_batch_size,
    }
    values = {key: value for key, value in entry.values.items() if key not in EVERY_ENTRY}
    if kind is EmbedsStore and "instance_data_dir" in values:  # an older name of the key
        values.setdefault("cache_dir", values.pop("instance_data_dir"))
    return _validated(kind, entry, values=values, defaults=defaults, output_dir=output_dir, problems=problems)


def _default_folder(entry: Entry, of_folder: str) -> str:
    """The default folder of a store within `cache`; a bucket's mirror has a folder of its own."""
    return f"mirrors/{entry.name}" if entry.values.get("type") == "aws" else of_folder


def _no_store(entry: Entry) -> Problem:
    reason = "a cache is a folder or a bucket"
    return entry.problem("type", reason=reason, fix='use "local" or "aws"')


def _usable(entry: Entry, *, problems: list[Problem]) -> bool:
    """Whether the type of the entry is supported; problems with its flags and types are added."""
    values, before = entry.values, len(problems)
    flags = [key for key in ("disabled", "disable", "preserve_data_backend_cache", *ACCEPTED_ONLY) if key in values]
    problems += [
        entry.problem(key, reason="it must be true or false", fix="write it without quotes")
        for key in flags
        if not isinstance(values[key], bool)
    ]
    known = {"type": tuple(KINDS_OF_DATASET), "dataset_type": DATASET_TYPES}
    if "type" not in values:
        problems.append(entry.problem("type", reason="it is missing", fix='set "type": "local"'))
    for key, choices in known.items():
        value = values.get(key, choices[0])
        if value not in choices:
            fix = did_you_mean(str(value), choices, otherwise=f"use one of {', '.join(choices)}")
            problems.append(entry.problem(key, reason="there is no such kind", fix=fix))
    return len(problems) == before


def _check_ids(entries: list[Entry], *, problems: list[Problem]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            problems.append(entry.problem("id", reason="two entries have this id", fix="give each entry its own"))
        seen.add(entry.name)


def _without_later(
    entry: Entry, *, later: dict[str, UnsupportedKey], also: tuple[str, ...], problems: list[Problem]
) -> dict[str, Any]:
    """The keys of the entry's own type, without the unsupported ones and those of every entry."""
    left: dict[str, Any] = {}
    for key, value in entry.values.items():
        if key in also:
            continue
        if key in later:
            if not any(value is each or (value == each and type(value) is type(each)) for each in later[key].harmless):
                problems.append(entry.problem(key, reason=later[key].reason, fix=later[key].fix))
        else:
            left[key] = value
    return left


def _validated(
    kind: type[Kind],
    entry: Entry,
    *,
    values: dict[str, Any],
    defaults: dict[str, Any],
    output_dir: Path,
    problems: list[Problem],
) -> Kind | None:
    context = {OUTPUT_DIR: output_dir}
    try:
        return kind.model_validate(defaults | values, context=context)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    known = (*kind.model_fields, *EVERY_ENTRY, *ACCEPTED_ONLY, *LATER_IMAGE_KEYS)
    wrong = {str(each["loc"][0]): each for each in details}
    for key, detail in wrong.items():
        words = _words(key, detail=detail, known=known)
        problems.append(entry.problem(key, **(_words_within(detail) or words)))
    try:
        return kind.model_validate(defaults | {k: v for k, v in values.items() if k not in wrong}, context=context)
    except ValidationError:
        return None


def _words_within(detail: ErrorDetails) -> dict[str, str] | None:
    """The reason and the fix for an error in a key of an object within the entry; None for other errors."""
    key = detail["loc"][-1]
    if len(detail["loc"]) < 2 or not isinstance(key, str):
        return None
    words = _words(key, detail=detail, known=(*TableFile.model_fields,))
    return {"reason": f"{key} in it: {words['reason']}", "fix": words["fix"]}


def _words(key: str, *, detail: ErrorDetails, known: tuple[str, ...]) -> dict[str, str]:
    """The reason and the fix for one of pydantic's errors."""
    if detail["type"] == "extra_forbidden":
        return {"reason": "there is no such key", "fix": did_you_mean(key, known, otherwise="remove it")}
    if detail["type"] == "missing":
        return {"reason": "it is missing", "fix": f'add "{key}": …'}
    if detail["type"] == "literal_error":
        choices = detail["ctx"]["expected"].replace("'", "") if "ctx" in detail else ""
        words = choices.replace(" or ", ", ").split(", ")
        return {
            "reason": "not an allowed value",
            "fix": did_you_mean(str(detail["input"]), words, otherwise=f"use {choices}"),
        }
    wanted = KINDS.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
    quoted = isinstance(detail["input"], str) and detail["type"] in UNQUOTED
    fix = "write it without quotes" if quoted else f"write {wanted}"
    return {"reason": f"it must be {wanted}", "fix": fix}
