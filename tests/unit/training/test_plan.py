"""Settings of a run come to what the loop is told."""

import pytest

from helpers.config.options.data import DataOptions
from helpers.config.options.training import CheckpointOptions, OptimizerOptions, RunOptions
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.training.plan import Interval, StepInfo, plan_run
from helpers.training.preparation.prepare import workers_for
from tests.unit.training.small_run import small_order, small_plan


def test_the_longest_gradient_is_the_one_that_was_said() -> None:
    order = small_order()
    assert [small_plan(order, steps=1, max_grad_norm=norm).max_grad_norm for norm in (0.0, 0.25)] == [0.0, 0.25]


@pytest.mark.parametrize(
    ("steps", "step", "saves"), [(10, 0, 4), (10, 3, 3), (10, 9, 1), (9, 0, 3), (9, 9, 0), (9, 12, 0)]
)
def test_the_last_step_is_always_saved(steps: int, step: int, saves: int) -> None:
    plan = small_plan(small_order(), steps=steps, save_every=3)
    assert plan.remaining_saves(step) == saves


def test_as_many_threads_prepare_as_were_asked_for() -> None:
    assert workers_for(DataOptions(max_workers=3), ranks=SingleProcess(), reporter=Reporter()).threads == 3
    assert workers_for(DataOptions(), ranks=SingleProcess(), reporter=Reporter()).threads >= 1


def test_epochs_end_with_a_step_that_may_reach_into_the_next() -> None:
    """Five images in batches of two: three batches to the first epoch, five to two; steps of two batches each."""
    for epochs, steps in ((1, 2), (2, 3)):
        run = RunOptions(num_train_epochs=epochs, max_train_steps=0, gradient_accumulation_steps=2)
        plan = plan_run(small_order(), run=run, optimizer=OptimizerOptions(), checkpoint=CheckpointOptions())
        assert plan.total_steps == steps


def test_validation_is_due_after_every_so_manieth_step_and_epoch_and_at_the_end() -> None:
    steps = Interval(steps=4)
    assert [step for step in range(13) if steps.includes(StepInfo(step=step))] == [0, 4, 8, 12]
    assert steps.includes(StepInfo(step=5, is_end=True))
    epochs = Interval(steps=1000, epochs=2)
    ended = [range(1, 1), range(1, 2), range(2, 3), range(3, 4), range(3, 5)]
    assert [epochs.includes(StepInfo(step=7, epochs=each)) for each in ended] == [False, False, True, False, True]
