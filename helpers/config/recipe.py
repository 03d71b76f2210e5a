"""The settings of a run that are saved with its weights, and the env file made from them."""

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePath

from helpers.config.option import written
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import ModelError

SETTINGS, DATASETS, PROCESSES = "settings", "datasets", "processes"
LOCAL_PATH = ""
"""Saved in place of a path that exists on one machine only, and that nobody else needs to see."""
OUTPUT = "OUTPUT_DIR"


def published_settings(config: RunConfig, *, clean: Callable[[str], str]) -> dict[str, str]:
    """Every setting that may be published, by its env name, as text. clean: removes secrets from a text."""
    published = {}
    for option in all_options():
        value = getattr(getattr(config, option.group), option.name)
        if option.publish and value is not None:
            text = written(value)
            published[option.env] = LOCAL_PATH if _is_of_this_machine(text) else clean(text)
    return {env: text for env, text in published.items() if text or env not in _empty_by_default()}


def _empty_by_default() -> set[str]:
    return {option.env for option in all_options() if option.default == ""}


def _is_of_this_machine(text: str) -> bool:
    """Whether it is an absolute path, a path from the home folder or above this one, or a URL."""
    path = PurePath(text)
    return path.is_absolute() or text.startswith("~") or ".." in path.parts or "://" in text


def config_env(header: Mapping[str, str]) -> str:
    """The env file of the run that wrote a file with this header; settings of one machine only are commented out.

    Raises ModelError if the header has no settings.
    """
    if SETTINGS not in header:
        raise ModelError("Its header has no settings: only files that a finished run of this program wrote have them.")
    return "".join(f"{line}\n" for line in (*_about(header), "", *_lines(header)))


def _about(header: Mapping[str, str]) -> Iterator[str]:
    yield f"# What {header.get('program', 'a run')} trained, {header.get('step', '?')} optimizer steps of it."
    yield f"# base model: {header.get('base_model')} ({header.get('base_model_variant')}), "
    yield f"#   with the identity {header.get('base_model_identity')}"
    for name, fingerprint in json.loads(header.get(DATASETS, "{}")).items():
        yield f"# dataset {name}: {fingerprint}"
    yield f"# versions: {header.get('versions')}"


def _lines(header: Mapping[str, str]) -> Iterator[str]:
    options = {option.env: option for option in all_options()}
    older = {env: option.unrecorded for env, option in options.items() if option.unrecorded is not None}
    for env, text in {**older, **json.loads(header[SETTINGS])}.items():
        line = f"export {env}={shlex.quote(text)}"
        if env not in options:
            yield f"#{line}   # this version has no such setting"
        elif env == OUTPUT:
            yield f"#{line}   # set a folder that no run has written to"
        elif text == LOCAL_PATH:
            yield f"#{line}   # a path on the machine of the run: set your own"
        elif text != written(options[env].default):
            yield line
    if int(header.get(PROCESSES, "1")) > 1:
        yield f"export TRAINING_NUM_PROCESSES={header[PROCESSES]}"


def header_of(path: Path) -> Mapping[str, str]:
    """The header of a safetensors file, or of the first one in a folder that has settings; empty if none has.

    Raises ModelError if a file cannot be read.
    """
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    headers = [_header_of_file(file) for file in files]
    return next((header for header in headers if SETTINGS in header), {})


def _header_of_file(path: Path) -> Mapping[str, str]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            return json.loads(file.read(length)).get("__metadata__", {})
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise ModelError(f"{path} cannot be read as a safetensors file: {error}") from error
