"""The families of models that can be trained; a new one is a folder and a line here."""

import json
from collections.abc import Mapping
from pathlib import Path

from helpers.models.family import ModelFamily
from helpers.models.sd3.family import sd3_family

DEFAULT_FAMILY = "sd3"
"""The family of a base model that names no other; it then reports what is wrong with the model."""

FAMILIES = (sd3_family,)


def families() -> Mapping[str, ModelFamily]:
    """Every family by its name; costs no import beyond torch."""
    return {family.name: family for family in (make() for make in FAMILIES)}


def family_of(base: str) -> ModelFamily:
    """The family of a base model: by the pipeline class that its folder names, or by its hub id.

    base: a hub id, or the path of a folder or file; may be empty.
    """
    known = families()
    pipeline_class = _pipeline_class(Path(base).expanduser() / "model_index.json") if base else ""
    for family in known.values():
        if family.facts.pipeline_class == pipeline_class or base in family.facts.licenses:
            return family
    return known[DEFAULT_FAMILY]


def _pipeline_class(index: Path) -> str:
    """The class that a folder in diffusers layout names; empty where the file is missing or cannot be read."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get("_class_name", "")) if isinstance(content, dict) else ""
