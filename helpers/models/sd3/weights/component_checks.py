"""Checks the files of a model's components: reads every config and header, but no tensors."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError, Problem
from helpers.models.formats.header import BrokenFileError, TensorEntry, read_header
from helpers.models.formats.safetensors import DTYPES
from helpers.models.sd3.memory.architecture import transformer_of
from helpers.models.sd3.weights.component_files import is_in_file, read_config, weight_files
from helpers.models.sd3.weights.missing_components import BASE, NAMED, PARTS_OPTION
from helpers.models.sd3.weights.original.config import config_in_file
from helpers.models.sd3.weights.original.file import TRANSFORMER, check_component
from helpers.models.sd3.weights.original.keys import POSITIONS
from helpers.wrong_files import again, wrong_content

PARTS = PARTS_OPTION.upper()
FIX = f"set {PARTS} to a folder or hub id of a complete SD3, or download this one again"
SCHEDULER, SCHEDULER_CONFIG = "scheduler", "scheduler_config.json"
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""A tokenizer needs the files of one of these groups."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The places of a run's components.

    weights: the folder of each component with weights, or its name appended to its file. small: the folders of
    tokenizers and scheduler. option_of: returns the option that sets the place of a component.
    """

    weights: Mapping[str, Path]
    small: tuple[Path, ...]
    variant: str | None
    option_of: Callable[[str], str]


Wrong = tuple[Path, str, str]
"""A file or folder, the problem, and the fix."""


def wrong_with_components(components: Components) -> list[Problem]:
    """All problems with the files of all components."""
    found = [
        Problem(option=components.option_of(part), value=str(path), reason=reason, fix=fix)
        for part, place in components.weights.items()
        for path, reason, fix in _of_component(place, components.variant, part=part)
    ]
    for folder in components.small:
        option = components.option_of(folder.name)
        found += [
            Problem(option=option, value=str(path), reason=reason, fix=fix)
            for path, reason, fix in _of_small_files(folder)
        ]
    return found


def option_of(part: str, options: ModelOptions, *, is_in_base: bool) -> str:
    """The option that sets the place of a component; is_in_base: it is in the base model's single file."""
    if part in NAMED and getattr(options, NAMED[part]):
        return NAMED[part].upper()
    elsewhere = options.pretrained_parts_model_name_or_path and part != TRANSFORMER and not is_in_base
    return PARTS if elsewhere else BASE


def _of_component(place: Path, variant: str | None, *, part: str) -> Iterator[Wrong]:
    """Problems with the config and weight files of one component."""
    try:
        if is_in_file(place):
            read_header(place.parent)
            check_component(place.parent, place.name)
            config_in_file(place.parent, place.name)
            return
        files = weight_files(place, variant, part=part)
    except BrokenFileError as error:
        yield error.path, error.reason, error.fix
        return
    except ModelError as error:
        yield place, str(error), FIX
        return
    complete, tensors = True, {}
    if wrong := _wrong_json(place / "config.json"):
        yield place / "config.json", *wrong
        complete = False
    for file in files:
        try:
            tensors |= read_header(file).tensors
        except BrokenFileError as error:
            yield error.path, error.reason, error.fix
            complete = False
    if complete and (reason := _wrong_tensors(place, tensors, part=part)):
        yield place, reason, "download it again, config and weights"


def _wrong_tensors(folder: Path, tensors: Mapping[str, TensorEntry], *, part: str) -> str:
    """Why the tensors of a component cannot be loaded; empty if no problem is found."""
    for name, entry in tensors.items():
        if entry.dtype not in DTYPES:
            return f"its tensor {name} has the dtype {entry.dtype}, which is not supported"
    if part != TRANSFORMER:
        return ""
    try:
        transformer = transformer_of(read_config(folder))
    except KeyError as error:
        return f"its config.json has no {error.args[0]}"
    wanted = {**dict(transformer.weights()), POSITIONS[1]: transformer.positions}
    for name, size in wanted.items():
        if name not in tensors:
            return f"its weights lack the tensor {name}"
        if (has := math.prod(tensors[name].shape)) != size:
            return f"its tensor {name} has {has:,} values, but {size:,} by its config.json"
    return ""


def _of_small_files(folder: Path) -> Iterator[Wrong]:
    """Problems with a tokenizer or the scheduler."""
    if not folder.is_dir():
        yield folder, f"there is no folder `{folder.name}`; a complete SD3 in diffusers layout has one", FIX
        return
    names = {file.name for file in folder.iterdir()}
    if folder.name == SCHEDULER:
        needed = (SCHEDULER_CONFIG,)
    else:
        needed = next((group for group in VOCABULARIES if names.issuperset(group)), VOCABULARIES[0])
    for name in needed:
        if name not in names:
            yield folder, f"it has no {name}", FIX
    for file in sorted(folder.iterdir()):
        wrong = None if file.is_dir() else _wrong_json(file) if file.suffix == ".json" else wrong_content(file)
        if wrong:
            yield file, *wrong


def _wrong_json(file: Path) -> tuple[str, str] | None:
    """Why a file is not valid JSON, and the fix; None if it is."""
    if found := wrong_content(file):
        return found
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"it cannot be read as JSON: {error}", again(file)
    return None
