"""What kind of model a folder holds, told from its JSON alone, so before torch is imported."""

import json
from pathlib import Path
from typing import Any

from helpers.wrong_files import wrong_content

PIPELINES = "StableDiffusion3"
"""How the names of SD3's pipelines in diffusers begin."""

TRANSFORMER = "SD3Transformer2DModel"
ONLY_SD3 = "this program trains Stable Diffusion 3 and 3.5 only"
INDEX = "model_index.json"
NAME_A_WHOLE_ONE = "name a folder (or a hub id) with model_index.json, transformer, vae, text_encoder and so on"


def check_model_folder(folder: Path) -> tuple[str, str] | None:
    """Why the model in `folder` cannot be trained, and the fix; None where it is an SD3 in diffusers layout."""
    if not (folder / INDEX).is_file():
        return _no_pipeline(folder)
    for file, right in ((folder / INDEX, PIPELINES), (folder / "transformer" / "config.json", TRANSFORMER)):
        try:
            kind = _kind(file)
        except (OSError, ValueError) as error:
            return _unreadable(file, error)
        if kind is not None and not kind.startswith(right):
            fix = "name one of theirs in diffusers layout, such as stabilityai/stable-diffusion-3.5-medium"
            return f"it is a {kind}; {ONLY_SD3}", fix
    return None


def _unreadable(file: Path, error: Exception) -> tuple[str, str]:
    """Why a JSON file is none, and the fix."""
    if found := wrong_content(file):
        return f"{file} cannot be read: {found[0]}", found[1]
    return f"{file} cannot be read: {error}", "download it again"


def _no_pipeline(folder: Path) -> tuple[str, str]:
    """What a folder without model_index.json seems to be."""
    try:
        kind = _kind(folder / "config.json")
    except (OSError, ValueError):
        kind = None
    if kind is not None:
        return f"it is one part of a model only, a {kind}", f"name the folder above it: {folder.absolute().parent}"
    inside = next((each.parent for each in sorted(folder.glob(f"*/{INDEX}"))), None)
    if inside is not None:
        return f"it has no {INDEX}", f"name the folder inside of it: {inside}"
    return f"it has no {INDEX}, so it is not a model in diffusers layout", NAME_A_WHOLE_ONE


def _kind(file: Path) -> str | None:
    """The class that a part, or a pipeline, says it is; None where the file is not there or does not say."""
    if not file.is_file():
        return None
    said: Any = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError("it does not hold an object")
    name = said.get("_class_name") or next(iter(said.get("architectures") or ()), None)
    return None if name is None else str(name)
