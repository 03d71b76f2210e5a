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
