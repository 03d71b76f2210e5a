"""Settings of a run come to what the loop is told."""

import pytest

from helpers.config.options.data import DataOptions
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
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
