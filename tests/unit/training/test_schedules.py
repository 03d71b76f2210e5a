"""Schedules against the libraries' own, under the same names."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from helpers.config.options.training import LR_SCHEDULES, CheckpointOptions, OptimizerOptions, RunOptions
from helpers.training.optim.lr_schedules import learning_rate
from helpers.training.plan import TrainState, plan_run
from tests.unit.training.small_run import small_order

STEPS, WARMUP = 40, 8


def rates(name: str, *, steps: int = STEPS, **options: float | int) -> list[float]:
    settings = OptimizerOptions(lr_scheduler=name, learning_rate=0.5, **options)  # type: ignore[arg-type]
    return [learning_rate(step, options=settings, total_steps=steps) for step in range(steps)]


def library_rates(name: str, **options: float | int) -> list[float]:
    """What diffusers' scheduler of that name says at each step."""
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = get_scheduler(
        name,
        optimizer,
        num_training_steps=STEPS,
        num_warmup_steps=WARMUP,
        **options,  # type: ignore[arg-type]
    )
    found = []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("constant_with_warmup", {}, {}),
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_restarts", {"lr_num_cycles": 3}, {"num_cycles": 3}),
        ("polynomial", {"lr_power": 1.5, "lr_end": 1e-7}, {"power": 1.5}),
    ],
)
def test_rates_are_those_of_diffusers(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert rates(name, lr_warmup_steps=WARMUP, **ours) == pytest.approx(library_rates(name, **theirs))


def test_polynomial_follows_its_formula() -> None:
    found = rates("polynomial", lr_warmup_steps=WARMUP, lr_power=2.0, lr_end=0.1)
    expected = [0.1 + 0.4 * (1 - (step - WARMUP) / (STEPS - WARMUP)) ** 2 for step in range(WARMUP, STEPS)]
    assert found[WARMUP:] == pytest.approx(expected)


def test_constant_has_no_warmup() -> None:
    assert rates("constant", lr_warmup_steps=WARMUP) == [0.5] * STEPS


def test_sine_swings_between_the_rate_and_its_end() -> None:
    found = rates("sine", lr_num_cycles=2, lr_end=0.1)
    assert found[0] == found[20] == 0.5
    assert found[10] == found[30] == pytest.approx(0.1)
    assert found[5] == pytest.approx(0.3)


@pytest.mark.parametrize("name", [name for name in LR_SCHEDULES if not name.startswith("constant")])
def test_rates_stay_between_end_and_peak(name: str) -> None:
    found = rates(name, lr_end=0.2, lr_num_cycles=2)
    assert max(found) == found[0] == 0.5
    assert min(found) >= 0.2
    assert found[-1] < 0.5


@given(
    name=some.sampled_from(LR_SCHEDULES),
    steps=some.integers(1, 50),
    warmup=some.integers(0, 60),
    cycles=some.integers(1, 60),
    power=some.floats(0.1, 4),
    end=some.floats(0, 0.5),
    start=some.integers(0, 50),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_rate_is_a_function_of_its_step_alone(
    name: str, steps: int, warmup: int, cycles: int, power: float, end: float, start: int
) -> None:
    """A run that goes on at any step has the rates of one that was never interrupted, and none is out of bounds."""
    optimizer = OptimizerOptions(
        lr_scheduler=name,
        learning_rate=0.5,
        lr_end=end,
        lr_warmup_steps=warmup,
        lr_num_cycles=cycles,
        lr_power=power,
    )

    def rates_from(first: int) -> list[float]:
        run, checkpoint = RunOptions(max_train_steps=steps), CheckpointOptions()
        state = TrainState(step=first)
        plan = plan_run(small_order(), run=run, optimizer=optimizer, checkpoint=checkpoint, start=state)
        return [plan.learning_rate(step) for step in range(first, plan.total_steps)]

    straight = rates_from(0)
    assert rates_from(min(start, steps)) == straight[start:]
    rising = 0 if name == "constant" else warmup
    assert straight[:rising] == [0.5 * step / warmup for step in range(min(rising, steps))]
    assert all(end - 1e-12 <= rate <= 0.5 + 1e-12 for rate in straight[rising:])
    assert straight[rising:][:1] in ([], [0.5])


def test_a_cycle_begins_with_its_first_step() -> None:
    for cycles in range(1, 60):
        found = rates("cosine_with_restarts", steps=3 * cycles, lr_num_cycles=cycles)
        assert found[::3] == [0.5] * cycles


def test_a_run_shorter_than_its_warmup_only_rises() -> None:
    assert rates("cosine", steps=4, lr_warmup_steps=8) == pytest.approx([0, 0.5 / 8, 1 / 8, 1.5 / 8])
