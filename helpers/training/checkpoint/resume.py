"""Where a run starts: at the beginning or at a checkpoint, with every change since that checkpoint reported."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from helpers.config.datasets.file import DatasetFile
from helpers.config.train_config import RunConfig
from helpers.dataloader.sampler import SampleOrder
from helpers.reporting.events import Change, Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import Checkpoint, find_checkpoint
from helpers.training.checkpoint.compatibility import compare
from helpers.training.checkpoint.manifest import RunInputs, configuration_of
from helpers.training.plan import TrainState


def checkpoint_of(config: RunConfig) -> Checkpoint | None:
    """The checkpoint that the run will resume from, if any; nothing is reported.

    Raises CheckpointError if the requested checkpoint is missing or incomplete.
    """
    resume = config.checkpoint.resume_from_checkpoint
    return None if resume == "none" else find_checkpoint(config.run.output_folder, resume, reporter=Reporter())


def report_changed_settings(
    config: RunConfig,
    files: DatasetFile,
    *,
    dataset_settings: Mapping[str, Mapping[str, str]],
    reporter: Reporter,
) -> tuple[Change, ...]:
    """Report which settings have changed since the checkpoint that the run will resume from, if any.

    Called before anything is encoded; `starting_state` reports the rest. Raises CheckpointError if a change makes it
    impossible to resume.
    """
    checkpoint = checkpoint_of(config)
    if checkpoint is None:
        return ()
    saved = checkpoint.manifest.foundations
    datasets = {dataset.id: saved.datasets.get(dataset.id, "") for dataset in files.images}
    changes = compare(
        checkpoint.manifest,
        configuration=configuration_of(config),
        foundations=replace(saved, datasets=datasets, dataset_settings=dataset_settings),
        folder=str(checkpoint.folder),
    ).settings
    _report(changes, checkpoint=checkpoint, reporter=reporter)
    return changes


def _report(changes: Iterable[Change], *, checkpoint: Checkpoint, reporter: Reporter) -> None:
    for change in changes:
        reporter.handle(Notice(text=f"changed since {checkpoint.folder.name}: {change}"))


def starting_state(
    checkpoint: Checkpoint | None,
    *,
    configuration: Mapping[str, Mapping[str, Any]],
    foundations: RunInputs,
    order: SampleOrder,
    reporter: Reporter,
) -> TrainState:
    """The step and position to start at, found before anything large is loaded (`restore` reads the tensors later).

    Reports changed inputs; `report_changed_settings` has reported the settings. Raises CheckpointError if the
    checkpoint belongs to another run.
    """
    if checkpoint is None:
        return TrainState()
    manifest = checkpoint.manifest
    folder = str(checkpoint.folder)
    comparison = compare(manifest, configuration=configuration, foundations=foundations, folder=folder)
    reporter.handle(Notice(text=f"resumes from {folder}"))
    _report(comparison.inputs, checkpoint=checkpoint, reporter=reporter)
    position = manifest.position
    if not comparison.same_order:
        if manifest.foundations.datasets == foundations.datasets:
            before = order.for_world_size(manifest.foundations.world_size)
            position = order.position_after_images(before.images_shown(position))
            where = f"training resumes in epoch {position.epoch + 1} so that no image is skipped; some repeat"
        else:
            position = order.position_after(order.batches_before(position.epoch))
            where = f"training resumes at the beginning of epoch {position.epoch + 1}"
        text = f"the order of images changes: {where}"
        reporter.handle(Notice(level="warning", text=text))
    return TrainState(step=manifest.step, position=position)
