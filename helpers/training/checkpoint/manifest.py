"""The manifest of a checkpoint: what it holds, whether it is complete, and which run wrote it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from helpers import __version__
from helpers.config.train_config import RunConfig
from helpers.data.types import Catalog
from helpers.dataloader.types import Position
from helpers.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """The inputs of a run besides its settings.

    base_identity: of the base model's weights (`ModelComponents.identity`). datasets: a fingerprint by dataset id.
    dataset_settings: the keys that affect training, as texts by dataset id and key; empty in checkpoints of versions
    that did not store it. quantized_layers: their arithmetic; quanto's kernels in checkpoints that do not store it.
    """

    base_model: str
    base_identity: str
    world_size: int
    datasets: Mapping[str, str]
    dataset_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    quantized_layers: str = "quanto's kernels"


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """The size and checksum of a checkpoint's file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """Everything about a checkpoint except its tensors.

    serial: 1 for the first checkpoint of an output folder, then one more for each; the highest is the latest, even if a
    run restarted or resumed from an earlier step. configuration: the run's settings by group.
    """

    serial: int
    step: int
    position: Position
    foundations: RunInputs
    configuration: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, WrittenFile]
    format: int = FORMAT
    program: str = __version__


def configuration_of(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Every setting by group and name, with the alpha that is in effect."""
    by_group = dataclasses.asdict(config)
    by_group["lora"]["lora_alpha"] = config.lora.alpha
    return by_group


def dataset_fingerprints(catalogs: Sequence[Catalog]) -> dict[str, str]:
    """A fingerprint of what determines each dataset's order and pixels, as `N images, HASH`."""
    return {catalog.dataset_id: _fingerprint(catalog) for catalog in catalogs}


def _fingerprint(catalog: Catalog) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in catalog.paths:
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(np.ascontiguousarray(catalog.geometries).tobytes())
    digest.update(
        str((catalog.repeats, catalog.probability, catalog.ignore_epochs, catalog.is_regularisation_data)).encode()
    )
    return f"{len(catalog)} images, {digest.hexdigest()}"


def describe_files(folder: Path) -> dict[str, WrittenFile]:
    """The size and checksum of every file of `folder`."""
    return {file.name: _describe(file) for file in sorted(folder.iterdir())}


def _describe(file: Path) -> WrittenFile:
    with file.open("rb") as content:
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
    return WrittenFile(size_bytes=file.stat().st_size, sha256=checksum)


def to_json(manifest: CheckpointManifest) -> str:
    """The manifest as it is stored."""
    return json.dumps(dataclasses.asdict(manifest), indent=1) + "\n"


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of the checkpoint in `folder`, after checking that its files have their full size.

    Raises CheckpointError if it is incomplete or was written by a newer version of this program.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] > FORMAT:
            raise CheckpointError(f"{folder} was written by version {content['program']}: use that one or a newer one.")
        files = {name: WrittenFile(**file) for name, file in content.pop("files").items()}
        position = Position(**content.pop("position"))
        foundations = RunInputs(**content.pop("foundations"))
        manifest = CheckpointManifest(files=files, position=position, foundations=foundations, **content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} is not a complete checkpoint: {MANIFEST} cannot be read: {error!r}") from error
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file.size_bytes:
            raise CheckpointError(f"{folder} is not a complete checkpoint: {name} is missing or cut short")
    return manifest


def verify_files(folder: Path, manifest: CheckpointManifest) -> None:
    """Raise CheckpointError naming the first file of `folder` whose checksum is wrong."""
    for name, file in manifest.files.items():
        if _describe(folder / name) != file:
            raise CheckpointError(
                f"{folder / name} is damaged: its checksum does not match the manifest. Resume from another"
                " checkpoint with resume_from_checkpoint=checkpoint-N, or delete this folder."
            )
