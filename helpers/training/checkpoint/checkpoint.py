"""Saves checkpoints that a run resumes from exactly, and finds the one to resume from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from helpers.errors import CheckpointError
from helpers.files import atomic_folder, clear_leftovers, remove_folder
from helpers.models.adapters.full import PIPELINE
from helpers.models.adapters.trainable import Trainable
from helpers.models.formats.safetensors import write_tensors
from helpers.reporting.events import CheckpointSaved, Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.manifest import (
    MANIFEST,
    CheckpointManifest,
    RunInputs,
    describe_files,
    read_manifest,
    to_json,
    verify_files,
)
from helpers.training.optim.ema import WeightAverage
from helpers.training.optim.optimizer_state import optimizer_state, restore_optimizer
from helpers.training.plan import TrainState

OPTIMIZER_TENSORS = "optimizer.safetensors"
OPTIMIZER_REST = "optimizer.json"
NAME = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    manifest: CheckpointManifest


@dataclass(frozen=True, kw_only=True)
class CheckpointContent:
    """What a checkpoint stores: what is trained, its optimizer and average, and the files' metadata."""

    trained: Trainable
    optimizer: Optimizer
    average: WeightAverage
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CheckpointWriter:
    """Writes the checkpoints of an output folder and keeps the latest `keep`; only for the first rank."""

    output_dir: Path
    keep: int
    content: CheckpointContent
    configuration: Mapping[str, Mapping[str, Any]]
    foundations: RunInputs
    reporter: Reporter

    def save(self, state: TrainState, *, keep_all: bool = False) -> Path:
        """Write `checkpoint-STEP`, then delete older ones beyond `keep`, unless `keep_all`.

        Raises CheckpointError if it cannot be written.
        """
        folder = self.output_dir / f"checkpoint-{state.step}"
        before = complete_checkpoints(self.output_dir)
        serial = 1 + max((checkpoint.manifest.serial for checkpoint in before), default=0)
        try:
            with atomic_folder(folder) as partial:
                self._write(partial, state=state, serial=serial)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be written: {error}. Earlier checkpoints are kept.") from error
        self.reporter.handle(CheckpointSaved(step=state.step, path=folder))
        older = [checkpoint.folder for checkpoint in before if checkpoint.folder != folder]
        for old in () if keep_all else older[: max(0, len(older) - self.keep + 1)]:
            remove_folder(old)
        return folder

    def _write(self, folder: Path, *, state: TrainState, serial: int) -> None:
        content = self.content
        with content.average.applied_for_saving():
            content.trained.save(folder, metadata=content.metadata)
        tensors, rest = optimizer_state(content.optimizer, weights=content.trained.weights)
        write_tensors(folder / OPTIMIZER_TENSORS, tensors, metadata={})
        (folder / OPTIMIZER_REST).write_text(rest, encoding="utf-8")
        content.average.save(folder)
        manifest = CheckpointManifest(
            serial=serial,
            step=state.step,
            position=state.position,
            foundations=self.foundations,
            configuration=self.configuration,
            files=describe_files(folder),
        )
        (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")


def find_checkpoint(output_dir: Path, resume: str, *, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint to resume from; None if `resume` is `none`, or `latest` and there is none.

    resume: `latest`, `none`, a name such as `checkpoint-500`, or a path. Incomplete checkpoints are skipped with a
    warning. Raises CheckpointError if the requested one is missing or incomplete.
    """
    if resume in ("none", "latest"):
        found = complete_checkpoints(output_dir, reporter=reporter)
        if resume == "latest":
            return found[-1] if found else None
        if found:
            names = ", ".join(checkpoint.folder.name for checkpoint in found)
            reporter.handle(Notice(text=f"starts from the beginning; its checkpoints will replace {names}"))
        return None
    named = output_dir / resume if NAME.fullmatch(resume) else Path(resume).expanduser()
    if not named.is_dir():
        names = ", ".join(each.folder.name for each in complete_checkpoints(output_dir)) or "none"
        raise CheckpointError(
            f"resume_from_checkpoint = {resume}: there is no folder {named}. Complete checkpoints of {output_dir}:"
            f" {names}. `latest` resumes from the last of them, or starts from the beginning if there is none."
        )
    return Checkpoint(folder=named, manifest=read_manifest(named))


def complete_checkpoints(output_dir: Path, *, reporter: Reporter | None = None) -> list[Checkpoint]:
    """The complete checkpoints of a folder in the order they were saved; others are reported as warnings."""
    found = []
    for folder in sorted(output_dir.iterdir()) if output_dir.is_dir() else ():
        if NAME.fullmatch(folder.name) and folder.is_dir():
            try:
                found.append(Checkpoint(folder=folder, manifest=read_manifest(folder)))
            except CheckpointError as error:
                if reporter is not None:
                    reporter.handle(Notice(level="warning", text=f"left out: {error}"))
    return sorted(found, key=lambda checkpoint: (checkpoint.manifest.serial, checkpoint.manifest.step))


def clear_partial_checkpoints(output_dir: Path, *, reporter: Reporter) -> None:
    """Delete unfinished checkpoints and pipelines of a killed run; only on the first rank, at the start."""
    for folder in clear_leftovers(output_dir, name_pattern="checkpoint-*"):
        reporter.handle(Notice(text=f"deleted an unfinished checkpoint: {folder.name}"))
    for folder in clear_leftovers(output_dir, name_pattern=PIPELINE):
        reporter.handle(Notice(text=f"deleted an unfinished pipeline: {folder.name}"))


def restore_trained(checkpoint: Checkpoint, *, trained: Trainable) -> None:
    """Load the checkpoint's weights into what is trained.

    Raises CheckpointError if a file is damaged, ModelError if something else was trained.
    """
    verify_files(checkpoint.folder, checkpoint.manifest)
    trained.load(checkpoint.folder)


def restore_optimizer_state(
    checkpoint: Checkpoint, *, weights: Mapping[str, nn.Parameter], optimizer: Optimizer
) -> None:
    """Load the optimizer state into a new optimizer over `weights`; `restore_trained` has verified the files."""
    from safetensors.torch import load_file

    restore_optimizer(
        optimizer,
        weights=weights,
        tensors=load_file(checkpoint.folder / OPTIMIZER_TENSORS),
        text=(checkpoint.folder / OPTIMIZER_REST).read_text(encoding="utf-8"),
    )
