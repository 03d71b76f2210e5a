"""An optimizer's own average is lent to the model and taken back without a trace, whichever optimizer keeps it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.config.optimizers import KINDS
from helpers.config.options.finetune import EmaOptions
from helpers.config.options.training import OptimizerOptions
from helpers.training.optim.ema import WeightAverage
from helpers.training.optim.optimizers import make_optimizer
from helpers.training.optim.schedule_free import make_weight_average


def begun(name: str) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer, WeightAverage]:
    options = OptimizerOptions(optimizer=name, learning_rate=1.0 if KINDS[name].is_learning_rate_free else 0.01)
    draw = torch.Generator().manual_seed(0)
    weights = {"a": nn.Parameter(torch.randn(6, 4, generator=draw)), "b": nn.Parameter(torch.randn(3, generator=draw))}
    optimizer = make_optimizer(options, weights=weights, seed=0)
    return weights, optimizer, make_weight_average(EmaOptions(), options, weights=weights, optimizer=optimizer)


def take_steps(weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=draw)
        optimizer.step()


def numbers(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.is_schedule_free])
def test_the_average_is_lent_saved_and_taken_back_to_the_bit(name: str, tmp_path: Path) -> None:
    if KINDS[name].module:
        pytest.importorskip(KINDS[name].module)
    plain, plainly, _ = begun(name)
    weights, optimizer, average = begun(name)
    take_steps(plain, plainly, range(4))
    take_steps(weights, optimizer, range(4))
    learning = numbers(weights)
    with average.applied():
        lent = numbers(weights)
    with average.applied_for_saving():
        average_too = numbers(weights)
    assert all(torch.equal(lent[key], tensor) for key, tensor in average_too.items())
    assert not any(torch.equal(lent[key], tensor) for key, tensor in learning.items())
    assert all(torch.equal(weights[key], tensor) for key, tensor in learning.items())

    average.save(tmp_path)
    other, _, theirs = begun(name)
    theirs.load(tmp_path)
    assert all(torch.equal(other[key], tensor) for key, tensor in learning.items())

    take_steps(plain, plainly, range(4, 8))
    take_steps(weights, optimizer, range(4, 8))
    assert all(torch.equal(weights[key], tensor) for key, tensor in plain.items())
