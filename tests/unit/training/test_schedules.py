"""Schedules against the libraries' own, under the same names."""

import pytest
import torch

from helpers.config.options.training import LR_SCHEDULES, OptimizerOptions
from helpers.training.schedules import learning_rate

STEPS, WARMUP = 40, 8


def rates(name: str, *, steps: int = STEPS, **options: float | int) -> list[float]:
    settings = OptimizerOptions(lr_scheduler=name, learning_rate=0.5, **options)  # type: ignore[arg-type]
    return [learning_rate(step, options=settings, total_steps=steps) for step in range(steps)]


def library_rates(name: str, **options: float | int) -> list[float]:
    """What diffusers' scheduler of that name says at each step."""
    from diffusers.optimization import get_scheduler

    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = get_scheduler(
        name,
        optimiser,
        num_training_steps=STEPS,
        num_warmup_steps=WARMUP,
        **options,  # type: ignore[arg-type]
    )
    found = []
    for _ in range(STEPS):
        found.append(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("constant_with_warmup", {}, {}),
        ("linear", {}, {}),
        ("cosine", {}, {}),
        ("cosine_with_restarts", {"lr_num_cycles": 3}, {"num_cycles": 3}),
    ],
)
def test_rates_are_those_of_diffusers(name: str, ours: dict[str, int], theirs: dict[str, int]) -> None:
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


def test_a_run_shorter_than_its_warmup_only_rises() -> None:
    assert rates("cosine", steps=4, lr_warmup_steps=8) == pytest.approx([0, 0.5 / 8, 1 / 8, 1.5 / 8])
