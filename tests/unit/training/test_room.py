"""A disk too small for a run's checkpoints is told of before it trains."""

from pathlib import Path

import pytest
import torch

from helpers.errors import CheckpointError
from helpers.training.disk_space import check_checkpoint_space, checkpoint_bytes
from helpers.training.signals import StopSignal
from tests.unit.training.small_run import Events, SmallRun


def test_the_latest_is_complete_before_the_oldest_goes(tmp_path: Path) -> None:
    def check(*, saves: int, free: int) -> None:
        check_checkpoint_space(tmp_path, each_bytes=10_000_000, saves=saves, keep=3, free=lambda folder: free)

    check(saves=9, free=40_000_000)
    check(saves=2, free=20_000_000)
    check(saves=0, free=0)
    with pytest.raises(CheckpointError) as told:
        check(saves=9, free=39_000_000)
    said = str(told.value)
    assert "need 40 MB more (4 of 10 MB each), but only 39 MB are free" in said
    assert str(tmp_path) in said and "CHECKPOINTING_LIMIT" in said
    with pytest.raises(CheckpointError, match="2 of 10 MB each"):
        check(saves=2, free=19_000_000)


def test_each_number_is_counted_with_what_is_remembered_of_it() -> None:
    weights = [torch.zeros(10, 10), torch.zeros(100)]
    assert checkpoint_bytes(weights, optimizer="adamw", keeps_average=False) == 200 * (4 + 8)
    assert checkpoint_bytes(weights, optimizer="adamw", keeps_average=True) == 200 * (4 + 8 + 4)
    half = [weight.bfloat16() for weight in weights]
    assert checkpoint_bytes(half, optimizer="adamw_bf16", keeps_average=False) == 200 * (2 + 4)


def test_those_that_stand_already_leave_the_fewer_to_come(tmp_path: Path) -> None:
    """Two of three stand: one more beside them, and room for the next until the oldest goes."""
    SmallRun(output=tmp_path, steps=4).run(StopSignal(), Events())

    def check(*, free: int) -> None:
        check_checkpoint_space(tmp_path, each_bytes=10_000_000, saves=9, keep=3, free=lambda folder: free)

    check(free=20_000_000)
    with pytest.raises(CheckpointError, match="2 of 10 MB each"):
        check(free=19_000_000)
