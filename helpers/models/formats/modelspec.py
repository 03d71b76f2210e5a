"""What the header of a file of weights says in the words that other programs show: the ModelSpec standard.

https://github.com/Stability-AI/ModelSpec, version 1.0.1.
"""

from collections.abc import Mapping
from datetime import datetime

from helpers.models.formats.lora import DIFFUSERS_ENTRY
from helpers.models.formats.safetensors import HASH_TO_COME

PREFIX = "modelspec."
DIFFUSERS = "diffusers"
ORIGINAL = "https://github.com/Stability-AI/sd3.5"
ADAPTER = "/lora"


def modelspec(*, architecture: str, title: str, is_adapter: bool, made: datetime, edge_px: int) -> dict[str, str]:
    """The entries of a file in diffusers' names. architecture: see `FamilyFacts`. edge_px: of its training square."""
    said = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture + (ADAPTER if is_adapter else ""),
        "implementation": DIFFUSERS,
        "title": title,
        "date": made.isoformat(timespec="seconds"),
        "resolution": f"{edge_px}x{edge_px}",
        "prediction_type": "flow",
        "hash_sha256": HASH_TO_COME,
    }
    return {PREFIX + name: value for name, value in said.items()}


def carried_over(
    header: Mapping[str, str], *, architecture: str, implementation: str, is_adapter: bool
) -> dict[str, str]:
    """The header of a file that is made from another with this `header`; architecture: where that names none."""
    said = {name: value for name, value in header.items() if name not in (DIFFUSERS_ENTRY, "format")}
    architecture = said.get(f"{PREFIX}architecture", architecture).removesuffix(ADAPTER)
    return {
        **said,
        f"{PREFIX}sai_model_spec": "1.0.1",
        f"{PREFIX}architecture": architecture + (ADAPTER if is_adapter else ""),
        f"{PREFIX}implementation": implementation,
        f"{PREFIX}hash_sha256": HASH_TO_COME,
    }
