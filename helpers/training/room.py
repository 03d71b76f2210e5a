"""What a run's checkpoints will take of the disk, so that a full one is told of before hours of training."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from helpers.config.optimizers import KINDS
from helpers.errors import CheckpointError
from helpers.reporting.format import format_bytes
from helpers.training.checkpoint.checkpoint import complete_checkpoints
from helpers.training.disk_space import free_bytes


def checkpoint_bytes(weights: Iterable[Tensor], *, optimizer: str, keeps_average: bool) -> int:
    """What a checkpoint of trained `weights` takes: they, what the optimizer remembers, and their average in fp32."""
    beside = KINDS[optimizer].state_bytes_per_param + (torch.float32.itemsize if keeps_average else 0)
    return sum(weight.numel() * (weight.element_size() + beside) for weight in weights)


def check_checkpoint_space(
    output_dir: Path, *, each_bytes: int, saves: int, keep: int, free: Callable[[Path], int] = free_bytes
) -> None:
    """Raise CheckpointError where the disk has no room for the checkpoints to come, with the figures and the fix.

    saves: how often the run will still save. keep: how many stand; the latest is complete before the oldest goes.
    """
    standing = len(complete_checkpoints(output_dir))
    more = min(saves, max(0, keep - standing) + 1)
    if (room := free(output_dir)) < more * each_bytes:
        raise CheckpointError(
            f"The checkpoints need {format_bytes(more * each_bytes)} more ({more} of {format_bytes(each_bytes)} each),"
            f" but only {format_bytes(room)} are free in {output_dir}. Free some space there, name a folder on another"
            " disk (OUTPUT_DIR), or keep fewer (CHECKPOINTING_LIMIT=1 needs room for two while it saves)."
        )
