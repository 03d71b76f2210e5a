"""Where a run starts: at the beginning, or where a checkpoint left off, with every difference told."""

from collections.abc import Mapping
from typing import Any

from helpers.config.train_config import RunConfig
from helpers.dataloader.sampler import SampleOrder
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import Checkpoint, find_checkpoint
from helpers.training.checkpoint.compatibility import compare
from helpers.training.checkpoint.manifest import RunInputs, configuration_of
from helpers.training.plan import TrainState


def checkpoint_of(config: RunConfig) -> Checkpoint | None:
    """The checkpoint that the run will resume from, found without a report.

    Raises CheckpointError where the one that is named is not there or not complete.
    """
    resume = config.checkpoint.resume_from_checkpoint
    return None if resume == "none" else find_checkpoint(config.run.output_folder, resume, reporter=Reporter())


def refuse_other_settings(config: RunConfig) -> None:
    """Raise CheckpointError where the checkpoint to continue from was saved with settings that it cannot do without.

    What the run stands on besides is compared once it is known, by `starting_state`.
    """
    checkpoint = checkpoint_of(config)
    if checkpoint is not None:
        compare(
            checkpoint.manifest,
            configuration=configuration_of(config),
            foundations=checkpoint.manifest.foundations,
            folder=str(checkpoint.folder),
        )


def starting_state(
    checkpoint: Checkpoint | None,
    *,
    configuration: Mapping[str, Mapping[str, Any]],
    foundations: RunInputs,
    order: SampleOrder,
    reporter: Reporter,
) -> TrainState:
    """Where the run starts, known before anything large is loaded (`checkpoint.restore` reads the numbers later).

    Raises CheckpointError where the checkpoint belongs to another run.
    """
    if checkpoint is None:
        return TrainState()
    manifest = checkpoint.manifest
    folder = str(checkpoint.folder)
    continuation = compare(manifest, configuration=configuration, foundations=foundations, folder=folder)
    reporter.handle(Notice(text=f"continues from {folder}"))
    for difference in continuation.announced:
        text = f"changed since: {difference.name}: {difference.before} in the checkpoint, {difference.now} now"
        reporter.handle(Notice(text=text))
    position = manifest.position
    if not continuation.same_order:
        if manifest.foundations.datasets == foundations.datasets:
            before = order.for_world_size(manifest.foundations.world_size)
            position = order.position_after_images(before.images_shown(position))
            where = f"goes on in epoch {position.epoch + 1} where no image is left out; some come again"
        else:
            position = order.position_after(order.batches_before(position.epoch))
            where = f"starts again at the beginning of epoch {position.epoch + 1}"
        text = f"so the order of images changes, and {where}"
        reporter.handle(Notice(level="warning", text=text))
    return TrainState(step=manifest.step, position=position)
