"""What an optimiser remembers survives being written down, to the bit, and each one does what its name says."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.config.options.training import OPTIMIZERS, OptimizerOptions
from helpers.errors import CheckpointError
from helpers.training.optimisers import make_optimiser, optimiser_state, restore_optimiser, set_learning_rate
from helpers.training.stochastic_adamw import StochasticAdamW, rounded_at_random


def new_weights(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (6, 4), "b.weight": (3, 6), "c.bias": (5,)}
    return {name: nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for name, shape in shapes.items()}


def set_gradients(weights: Mapping[str, nn.Parameter], step: int, *, scale: float = 1.0) -> None:
    draw = torch.Generator().manual_seed(step)
    for weight in weights.values():
        weight.grad = scale * torch.randn(weight.shape, generator=draw).to(weight.dtype)


def take_steps(optimiser: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(weights, step)
        set_learning_rate(optimiser, 0.01 / (1 + step))
        optimiser.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_after_a_round_trip_are_the_steps_without_it(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    options = OptimizerOptions(optimizer=name, learning_rate=0.01)
    straight = new_weights(dtype)
    optimiser = make_optimiser(options, weights=straight, seed=3)
    take_steps(optimiser, straight, range(3))
    tensors, rest = optimiser_state(optimiser, weights=straight)
    save_file(tensors, tmp_path / "state.safetensors")
    continued = {name: nn.Parameter(weight.detach().clone()) for name, weight in straight.items()}
    take_steps(optimiser, straight, range(3, 6))

    torch.manual_seed(12345)  # nothing may depend on the global random state
    again = make_optimiser(options, weights=continued, seed=3)
    restore_optimiser(again, weights=continued, tensors=load_file(tmp_path / "state.safetensors"), text=rest)
    take_steps(again, continued, range(3, 6))
    for key, weight in straight.items():
        assert torch.equal(continued[key], weight), key


def test_a_state_of_other_weights_is_refused() -> None:
    weights = new_weights()
    optimiser = make_optimiser(OptimizerOptions(), weights=weights, seed=0)
    take_steps(optimiser, weights, range(1))
    tensors, rest = optimiser_state(optimiser, weights=weights)
    fewer = {name: weight for name, weight in weights.items() if name != "b.weight"}
    with pytest.raises(CheckpointError, match=r"b\.weight"):
        restore_optimiser(
            make_optimiser(OptimizerOptions(), weights=fewer, seed=0), weights=fewer, tensors=tensors, text=rest
        )


def test_adafactor_steps_are_as_long_as_the_learning_rate_says() -> None:
    """Also for an adapter that starts at zero, and for the small gradients of a diffusion model."""
    weights = {"b": nn.Parameter(torch.zeros(32, 16))}
    optimiser = make_optimiser(OptimizerOptions(optimizer="adafactor", learning_rate=1e-4), weights=weights, seed=0)
    set_gradients(weights, 0, scale=1e-6)
    optimiser.step()
    moved = weights["b"].square().mean().sqrt().item()
    assert moved == pytest.approx(1e-4, rel=0.1)


def test_adafactor_leaves_weights_without_gradient_signal_finite() -> None:
    weights = {"a": nn.Parameter(torch.ones(8, 4))}
    optimiser = make_optimiser(OptimizerOptions(optimizer="adafactor"), weights=weights, seed=0)
    weights["a"].grad = torch.zeros(8, 4)
    optimiser.step()
    assert torch.equal(weights["a"], torch.ones(8, 4))


def test_prodigy_finds_its_own_step_size() -> None:
    weights = {"a": nn.Parameter(torch.zeros(16))}
    optimiser = make_optimiser(OptimizerOptions(optimizer="prodigy", learning_rate=1.0), weights=weights, seed=0)
    goal = torch.linspace(-1, 1, 16)
    for _ in range(300):
        weights["a"].grad = (weights["a"].detach() - goal).sign()
        optimiser.step()
    assert (weights["a"] - goal).abs().mean() < 0.1


def test_stochastic_adamw_is_adamw_on_average() -> None:
    ours, theirs = new_weights(), new_weights()
    stochastic = StochasticAdamW(ours.values(), lr=1e-3, seed=0)
    exact = torch.optim.AdamW(theirs.values(), lr=1e-3)
    for step in range(200):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        stochastic.step()
        exact.step()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=2e-3, rtol=0)
    states = [state for weight in ours.values() for state in stochastic.state[weight].values()]
    assert all(state.dtype is torch.bfloat16 for state in states)


def test_stochastic_adamw_moves_bf16_weights_that_rounding_would_hold() -> None:
    weights = {"a": nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))}
    optimiser = StochasticAdamW(weights.values(), lr=1e-4, weight_decay=0.0, seed=0)
    for _ in range(10):
        weights["a"].grad = torch.ones(4096, dtype=torch.bfloat16)
        optimiser.step()
    # Each step is 1e-4, a fortieth of the distance between bf16 numbers just below 1.
    assert weights["a"].float().mean().item() == pytest.approx(1 - 10 * 1e-4, abs=2e-4)


def test_stochastic_adamw_rounds_by_seed_and_step_alone() -> None:
    def weights_after(seed: int) -> torch.Tensor:
        weights = new_weights()
        optimiser = StochasticAdamW(weights.values(), lr=1e-2, seed=seed)
        take_steps(optimiser, weights, range(4))
        return weights["a.weight"].detach()

    first = weights_after(1)
    torch.manual_seed(4)
    assert torch.equal(weights_after(1), first)
    assert not torch.equal(weights_after(2), first)


def test_random_rounding_keeps_the_mean_and_numbers_that_fit() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.full((200_000,), -1.001)
    rounded = rounded_at_random(values, generator)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert rounded.mean().item() == pytest.approx(-1.001, abs=3e-5)
    fitting = torch.tensor([0.0, -0.0, 1.0, -2.5, 3e38, 1e-40]).bfloat16().float()
    assert torch.equal(rounded_at_random(fitting, generator), fitting)


def test_only_the_chosen_optimisers_library_is_imported() -> None:
    code = """
import sys, torch
from helpers.config.options.training import OptimizerOptions
from helpers.training.optimisers import make_optimiser
weights = {"a": torch.nn.Parameter(torch.ones(2))}
for name in ("adamw", "adamw_bf16", "adafactor"):
    make_optimiser(OptimizerOptions(optimizer=name), weights=weights, seed=0)
assert not {"torchao", "pytorch_optimizer", "transformers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
