"""Where a run starts: at the beginning, or where a checkpoint left off, with every difference told."""

from collections.abc import Mapping
from typing import Any

from helpers.batches.order import Order
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint import Checkpoint
from helpers.training.manifest import Foundations
from helpers.training.resume_rules import compare
from helpers.training.state import TrainState


def starting_state(
    checkpoint: Checkpoint | None,
    *,
    configuration: Mapping[str, Mapping[str, Any]],
    foundations: Foundations,
    order: Order,
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
    reporter.hear(Notice(text=f"continues from {folder}"))
    for difference in continuation.announced:
        reporter.hear(Notice(text=f"changed since: {difference}"))
    position = manifest.position
    if not continuation.same_order:
        position = order.position_after(order.batches_before(position.epoch))
        epoch = position.epoch + 1
        text = f"so the order of pictures is another one, and starts anew at the beginning of epoch {epoch}"
        reporter.hear(Notice(level="warning", text=text))
    return TrainState(step=manifest.step, position=position)
