"""Our Adafactor is PyTorch's, step for step, without its waits."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.config.options.training import OptimizerOptions
from helpers.training.optim.adafactor import SMALLEST_GRADIENT, SMALLEST_WEIGHT, Adafactor
from helpers.training.optim.optimizer_state import optimizer_state, restore_optimizer
from helpers.training.optim.optimizers import make_optimizer
from tests.unit.training.test_optimizers import set_gradients

SHAPES = {"a.weight": (6, 4), "b.weight": (2, 3, 5), "c.bias": (5,)}
EPS = (SMALLEST_GRADIENT, SMALLEST_WEIGHT)


def new_weights(*, large: float = 1.0, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter((large * torch.randn(shape, generator=draw)).to(dtype)) for name, shape in SHAPES.items()
    }


def stepped(optimizer: torch.optim.Optimizer, weights: dict[str, nn.Parameter], steps: range, *, scale: float) -> None:
    for step in steps:
        set_gradients(weights, step, scale=scale)
        optimizer.step()


@pytest.mark.parametrize("large", [0.01, 30.0], ids=["small weights", "weights that lengthen their steps"])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "beta2_decay": -0.5, "d": 2.0}], ids=str)
def test_steps_are_those_of_pytorch(settings: dict[str, float], large: float) -> None:
    ours, theirs = new_weights(large=large), new_weights(large=large)
    mine = Adafactor(ours.values(), lr=0.3, eps=EPS, **settings)
    other = torch.optim.Adafactor(theirs.values(), lr=0.3, eps=EPS, **{"weight_decay": 0.0, **settings})
    for optimizer, weights in ((mine, ours), (other, theirs)):
        stepped(optimizer, weights, range(12), scale=1e-5)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, new_weights(large=large)[name])


def test_a_checkpoint_of_pytorchs_goes_on() -> None:
    before, straight = new_weights(), new_weights()
    pytorchs = torch.optim.Adafactor(before.values(), lr=0.1, eps=EPS, weight_decay=0.0)
    stepped(pytorchs, before, range(3), scale=1.0)
    tensors, rest = optimizer_state(pytorchs, weights=before)
    ours = make_optimizer(OptimizerOptions(optimizer="adafactor", learning_rate=0.1), weights=before, seed=0)
    restore_optimizer(ours, weights=before, tensors=tensors, text=rest)
    stepped(ours, before, range(3, 6), scale=1.0)
    other = torch.optim.Adafactor(straight.values(), lr=0.1, eps=EPS, weight_decay=0.0)
    stepped(other, straight, range(6), scale=1.0)
    for name, weight in before.items():
        torch.testing.assert_close(weight, straight[name], rtol=1e-5, atol=1e-6)


class NumbersRead(TorchDispatchMode):
    """Counts how often a number of the device would be read, by the numbers that are not of the step counters."""

    def __init__(self, counters: set[int]) -> None:
        super().__init__()
        self.counters, self.read = counters, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and id(args[0]) not in self.counters:
            self.read += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "expected"), [(Adafactor, 0), (torch.optim.Adafactor, 2 * len(SHAPES))])
def test_no_number_of_the_device_is_read(kind: type[torch.optim.Optimizer], expected: int) -> None:
    weights = new_weights()
    optimizer = kind(weights.values(), lr=0.1)
    stepped(optimizer, weights, range(1), scale=1.0)
    set_gradients(weights, 1)
    with NumbersRead({id(optimizer.state[weight]["step"]) for weight in weights.values()}) as numbers:
        optimizer.step()
    assert numbers.read == expected


def test_weights_in_bf16_move() -> None:
    weights = new_weights(dtype=torch.bfloat16)
    optimizer = Adafactor(weights.values(), lr=0.5)
    stepped(optimizer, weights, range(3), scale=1.0)
    assert all(weight.isfinite().all() and weight.dtype is torch.bfloat16 for weight in weights.values())
    assert all(not torch.equal(weight, new_weights(dtype=torch.bfloat16)[name]) for name, weight in weights.items())


def test_rows_with_small_gradients_move_as_far_as_those_with_large_ones() -> None:
    """What the paper's factored second moment is for; at PyTorch's own bound, 1e-7, quiet rows would stay behind."""
    size = torch.logspace(-8, -5, 4)[:, None]
    signs = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).sign()
    weights = {"a": nn.Parameter(torch.zeros(4, 16))}
    optimizer = make_optimizer(OptimizerOptions(optimizer="adafactor", learning_rate=1e-3), weights=weights, seed=0)
    weights["a"].grad = size * signs
    optimizer.step()
    torch.testing.assert_close(weights["a"].detach(), -1e-3 * signs, rtol=1e-3, atol=0)
