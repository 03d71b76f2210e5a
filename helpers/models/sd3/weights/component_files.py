"""Reads a model's component from a folder in diffusers layout, or from a file with one or more components.

A component's place is its folder, or its name appended to the file, `sd3.safetensors/vae`.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from helpers.errors import ModelError
from helpers.models.formats.fingerprint import (
    config_fingerprint,
    content_fingerprint,
    files_fingerprint,
    fingerprint,
    tensors_fingerprint,
)
from helpers.models.formats.safetensors import Opened, open_all
from helpers.models.hub import weight_patterns
from helpers.models.loading import Weights, weights_of
from helpers.models.sd3.weights.component_identity import facts_for_identity, without_copies
from helpers.models.sd3.weights.original.config import config_in_file
from helpers.models.sd3.weights.original.file import names_of_part, open_in_file

SHARD = re.compile(r"-(\d+)-of-(\d+)(?=\.)")


def is_in_file(place: Path) -> bool:
    """Whether a component's place is in a file."""
    return place.parent.is_file()


@contextmanager
def open_part(place: Path, variant: str | None) -> Iterator[Opened]:
    """A component's lazy tensors by diffusers' names, and the metadata of the files' headers."""
    with (
        open_in_file(place.parent, place.name) if is_in_file(place) else open_all(weight_files(place, variant)) as found
    ):
        yield found


def part_weights(place: Path, variant: str | None) -> Weights:
    """A component's tensors, to be read block by block."""
    return weights_of(partial(open_part, place, variant))


def files_of_component(place: Path, variant: str | None) -> tuple[Path, ...]:
    """The files that a component is read from: its config.json and weights, or the file that contains it."""
    return (place.parent,) if is_in_file(place) else (place / "config.json", *weight_files(place, variant))


def weight_files(folder: Path, variant: str | None, *, part: str = "") -> tuple[Path, ...]:
    """A component's safetensors files, of the variant if it has one, else without variant; raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json: the model's `{part or folder.name}` is missing.")
    names = sorted(file.name for file in folder.iterdir())
    found = _one_set(_matching(names, variant) or _matching(names, None))
    if not found:
        there = ", ".join(name for name in names if name != "config.json") or "nothing else"
        raise ModelError(
            f"{folder} has no safetensors weights (`{weight_patterns(variant)[0]}` or similar); besides config.json "
            f"it has {there}. Download them, or set --variant to an existing variant."
        )
    if missing := sorted(set(found) - set(names)):
        raise ModelError(f"{folder} lacks {', '.join(missing)}; is the download complete?")
    return tuple(folder / name for name in found)


def loading_variant(folder: Path, variant: str | None) -> str | None:
    """The `variant` for `from_pretrained`, None for a component that only has weights without a variant."""
    return variant if _matching([file.name for file in folder.iterdir()], variant) else None


def part_identity(place: Path, variant: str | None) -> str:
    """A hash of everything in a component's config and weights that its outputs depend on.

    For a VAE or text encoder it is the same in a folder, in shards and in a file, if the tensors are equal: it is part
    of cache keys. For a transformer in a file, only its own tensors matter.
    """
    facts = facts_for_identity(read_config(place))
    if facts is not None:
        with open_part(place, variant) as (tensors, _):
            return fingerprint(json.dumps(facts, sort_keys=True), content_fingerprint(without_copies(tensors)))
    if not is_in_file(place):
        return folder_identity(place, variant)
    with open_all([place.parent]) as (tensors, _):
        names = names_of_part(tensors, place.name)
    return fingerprint(config_fingerprint(read_config(place)), tensors_fingerprint(place.parent, names))


def folder_identity(folder: Path, variant: str | None) -> str:
    """A hash of a component's files: a transformer's identity, and what earlier versions used for every component."""
    return fingerprint(config_fingerprint(read_config(folder)), files_fingerprint(weight_files(folder, variant)))


def read_config(place: Path, file_name: str = "config.json") -> dict[str, Any]:
    """A component's config, derived from the tensors in a file; raises ModelError for an invalid or missing file."""
    if is_in_file(place):
        return config_in_file(place.parent, place.name)
    try:
        return json.loads((place / file_name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{place / file_name} cannot be read: {error}") from error


def _matching(names: Sequence[str], variant: str | None) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in weight_patterns(variant))]


def _one_set(names: Sequence[str]) -> list[str]:
    """The unsharded file, else every shard of the first name's set, including missing ones."""
    for name in names:
        if SHARD.search(name) is None:
            return [name]
    if not names:
        return []
    before, digits, total, after = SHARD.split(names[0])
    return [f"{before}-{number:0{len(digits)}d}-of-{total}{after}" for number in range(1, int(total) + 1)]
