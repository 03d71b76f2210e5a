"""Checks of the paths that options name: the model, its components, the output folder and the checkpoint."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.config.options.model import WITHOUT, ModelOptions
from helpers.config.suggestions import did_you_mean
from helpers.config.train_config import RunConfig
from helpers.wrong_files import wrong_content

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
BASE = "pretrained_model_name_or_path"
PARTS = "pretrained_parts_model_name_or_path"
T5 = "pretrained_t5_model_name_or_path"
COMPONENTS = (
    "pretrained_vae_model_name_or_path",
    "pretrained_clip_l_model_name_or_path",
    "pretrained_clip_g_model_name_or_path",
    T5,
)
"""The options for one component each, which may be one file; T5 may be `none`."""

EXPORTED_MODELS = ("pipeline", "single_file.safetensors")
"""What a finished run writes to its OUTPUT_DIR that could be a base model; see `helpers.training.checkpoint.export`."""

EXAMPLE = "stabilityai/stable-diffusion-3.5-medium"
NO_ENDING = "only .safetensors files can be read"

Wrong = tuple[str, str, str, str]
"""An option's name, its value, the reason and the fix."""


def check_paths(config: RunConfig) -> Iterator[Wrong]:
    """Every path that cannot be used."""
    output_dir = Path(config.run.output_dir).expanduser().absolute()
    for name in (BASE, PARTS, *COMPONENTS):
        value = None if name == T5 and config.model.without_t5 else getattr(config.model, name)
        if value and not (name == BASE and Path(value).expanduser().is_file()):
            yield from _model(name, value=value)
        if value and _is_replaced(Path(value).expanduser(), output_dir=output_dir):
            fix = "name another OUTPUT_DIR, or move the model out of this one"
            yield name, value, "this run's result would overwrite it", fix
    yield from _one_file(config.model)
    if wrong := not_writable(output_dir):
        yield "output_dir", config.run.output_dir, wrong, "name a folder that this user may write to"
    yield from _checkpoint(config.checkpoint.resume_from_checkpoint, output_dir=output_dir)


def _is_replaced(model: Path, *, output_dir: Path) -> bool:
    """Whether `model` is where this run would write its exported models."""
    place, output_dir = model.resolve(), output_dir.resolve()
    return any(place.is_relative_to(output_dir / name) for name in EXPORTED_MODELS)


def not_writable(folder: Path) -> str:
    """Why `folder`, which need not exist yet, cannot be written to; empty if it can.

    Found out by writing an unnamed file, because permissions do not show that a disk is read-only.
    """
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        return f"{there} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        return f"{there} cannot be written to: {error.strerror}"


def _model(name: str, *, value: str) -> Iterator[Wrong]:
    path = Path(value).expanduser()
    if value == WITHOUT and name in COMPONENTS:
        yield (
            name,
            value,
            "only T5 can be left out",
            "name a folder, a .safetensors file or a hub id, or leave it unset",
        )
    elif path.is_file() and name in COMPONENTS:
        yield from _not_safetensors(name, value=value)
    elif path.is_file():
        fix = "name a folder in diffusers layout, or a hub id; each component also has a setting of its own"
        yield name, value, "it is one file; only the base model and single components can be one file", fix
    elif not path.is_dir() and (path.suffix == ".safetensors" or not HUB_ID.fullmatch(value)):
        file = ", a .safetensors file" if name in COMPONENTS else ""
        none = ", or none to train without T5" if name == T5 else ""
        fix = f"name a folder in diffusers layout{file}, or a hub id such as {EXAMPLE}{none}"
        yield (
            name,
            value,
            f"there is no such folder{' or file' if file else ''}, and it does not look like a hub id",
            fix,
        )
    elif name in (BASE, PARTS) and path.is_dir() and (wrong := check_model_folder(path)):
        yield name, value, *wrong


def _one_file(model: ModelOptions) -> Iterator[Wrong]:
    """Only the name is checked here; which components the file lacks is known once its header is read."""
    base = model.pretrained_model_name_or_path
    if Path(base).expanduser().is_file():
        yield from _not_safetensors(BASE, value=base)


def _not_safetensors(name: str, *, value: str) -> Iterator[Wrong]:
    ending = Path(value).suffix
    if ending != ".safetensors":
        reason = f"it is a {ending} file, and only .safetensors files can be read" if ending else NO_ENDING
        yield name, value, reason, "use its .safetensors file, or name a folder or a hub id"


def _checkpoint(value: str, *, output_dir: Path) -> Iterator[Wrong]:
    if value in ("latest", "none") or (output_dir / value).is_dir() or Path(value).expanduser().is_dir():
        return
    there = sorted((each.name for each in output_dir.glob("checkpoint-*")), key=lambda name: (len(name), name))
    otherwise = "use latest or none" + (f", or one of {', '.join(there)}" if there else "")
    fix = did_you_mean(value, ("latest", "none"), otherwise=otherwise)
    yield "resume_from_checkpoint", value, f"no such checkpoint in {output_dir}, and no such folder", fix


PIPELINES = ("StableDiffusion3",)
"""How the names of each family's pipelines in diffusers begin; here, since this is checked before PyTorch loads."""

TRANSFORMER = "SD3Transformer2DModel"
ONLY_SD3 = "this program trains Stable Diffusion 3 and 3.5 only"
INDEX = "model_index.json"
COMPLETE_FOLDER = "name a folder (or a hub id) with model_index.json, transformer, vae, text_encoder and so on"


def check_model_folder(folder: Path) -> tuple[str, str] | None:
    """Why the model in `folder` cannot be trained, and the fix; None if it is an SD3 in diffusers layout."""
    if not (folder / INDEX).is_file():
        return _no_pipeline(folder)
    for file, right in ((folder / INDEX, PIPELINES), (folder / "transformer" / "config.json", TRANSFORMER)):
        try:
            kind = _kind(file)
        except (OSError, ValueError) as error:
            return _unreadable(file, error)
        if kind is not None and not kind.startswith(right):
            fix = f"name one of these models in diffusers layout, such as {EXAMPLE}"
            return f"it is a {kind}; {ONLY_SD3}", fix
    return None


def _unreadable(file: Path, error: Exception) -> tuple[str, str]:
    """Why a JSON file cannot be read, and the fix."""
    if found := wrong_content(file):
        return f"{file} cannot be read: {found[0]}", found[1]
    return f"{file} cannot be read: {error}", "download it again"


def _no_pipeline(folder: Path) -> tuple[str, str]:
    """What a folder without model_index.json is instead, and the fix."""
    try:
        kind = _kind(folder / "config.json")
    except (OSError, ValueError):
        kind = None
    if kind is not None:
        return f"it is only one component of a model, a {kind}", f"name the folder above it: {folder.absolute().parent}"
    inside = next((each.parent for each in sorted(folder.glob(f"*/{INDEX}"))), None)
    if inside is not None:
        return f"it has no {INDEX}", f"name the folder inside it: {inside}"
    return f"it has no {INDEX}, so it is not a model in diffusers layout", COMPLETE_FOLDER


def _kind(file: Path) -> str | None:
    """The class that a component or pipeline names; None if the file does not exist or does not name one."""
    if not file.is_file():
        return None
    content: Any = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it does not hold an object")
    name = content.get("_class_name") or next(iter(content.get("architectures") or ()), None)
    return None if name is None else str(name)
