"""What is wrong with the settings of publishing, as far as can be known without asking the hub."""

import re
from collections.abc import Iterator
from pathlib import Path

from helpers.config.checks.paths import Wrong
from helpers.config.train_config import RunConfig

NAME_ON_HUB = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", flags=re.ASCII)


def check_publishing(config: RunConfig) -> Iterator[Wrong]:
    """A repository's name that is missing, or that the hub does not allow."""
    said = config.publishing
    if said.push_to_hub and not said.hub_model_id:
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(config.run.output_dir).name).strip("-") or "my-model"
        yield "hub_model_id", "", "PUSH_TO_HUB has nowhere to upload to", f"say HUB_MODEL_NAME={name} or the like"
    if said.hub_model_id and not _is_allowed(said.hub_model_id):
        reason = "the hub allows letters, digits, `-`, `_` and `.`, 96 at the most, with at most an owner before a `/`"
        yield "hub_model_id", said.hub_model_id, reason, "say HUB_MODEL_NAME=my-model, or owner/my-model"


def _is_allowed(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and not name.endswith(".git") and all(NAME_ON_HUB.fullmatch(part) for part in parts)
