"""What an optimizer remembers survives being written down, to the bit, and each one does what its name says."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from helpers.config.optimizers import KINDS
from helpers.config.option import Option, written
from helpers.config.options.training import OptimizerOptions
from helpers.errors import CheckpointError, ConfigError
from helpers.models.formats.safetensors import write_tensors
from helpers.training.optim.optimizer_state import optimizer_state, restore_optimizer
from helpers.training.optim.optimizers import check_optimizer_on, make_optimizer, set_learning_rate


def new_weights(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (6, 4), "b.weight": (3, 6), "c.bias": (5,)}
    return {name: nn.Parameter(torch.randn(shape, generator=draw).to(dtype)) for name, shape in shapes.items()}


def set_gradients(weights: Mapping[str, nn.Parameter], step: int, *, scale: float = 1.0) -> None:
    draw = torch.Generator().manual_seed(step)
    for weight in weights.values():
        weight.grad = scale * torch.randn(weight.shape, generator=draw).to(weight.dtype)


def take_steps(optimizer: torch.optim.Optimizer, weights: Mapping[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(weights, step)
        set_learning_rate(optimizer, 0.01 / (1 + step))
        optimizer.step()


# Settings under which few steps show all that an optimizer does.
HASTY = {"soap": "precondition_frequency=2", "adamw8bit": "min_8bit_size=16", "dadaptation": "d0=0.01"}

NEW_VALUES = {
    "beta2_decay": -0.5,
    "d": 2,
    "growth_rate": 2,
    "prodigy_steps": 2,
    "min_8bit_size": 2,
    "precondition_frequency": 2,
}
NEW_VALUES["max_precondition_dim"] = 2
RATES = {"prodigy": 1.0, "prodigy_schedulefree": 1.0, "dadaptation": 1.0, "soap": 0.1}


def options_of(name: str, *, rate: float = 0.01) -> OptimizerOptions:
    if KINDS[name].module:
        pytest.importorskip(KINDS[name].module)
    return OptimizerOptions(optimizer=name, learning_rate=rate, optimizer_config=HASTY.get(name, ""))


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float32) for name in KINDS), ("adamw_bf16", torch.bfloat16)]
)
def test_steps_after_a_round_trip_are_the_steps_without_it(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    options = options_of(name)
    straight = new_weights(dtype)
    optimizer = make_optimizer(options, weights=straight, seed=3)
    take_steps(optimizer, straight, range(5))
    tensors, rest = optimizer_state(optimizer, weights=straight)
    write_tensors(tmp_path / "state.safetensors", tensors, metadata={})
    continued = {name: nn.Parameter(weight.detach().clone()) for name, weight in straight.items()}
    take_steps(optimizer, straight, range(5, 12))

    torch.manual_seed(12345)  # nothing may depend on the global random state
    again = make_optimizer(options, weights=continued, seed=3)
    restore_optimizer(again, weights=continued, tensors=load_file(tmp_path / "state.safetensors"), text=rest)
    take_steps(again, continued, range(5, 12))
    for key, weight in straight.items():
        assert torch.equal(continued[key], weight), key
    remembered, and_more = optimizer_state(optimizer, weights=straight)
    again_remembered, and_again_more = optimizer_state(again, weights=continued)
    assert and_more == and_again_more
    assert all(torch.equal(again_remembered[key], tensor) for key, tensor in remembered.items())


@pytest.mark.parametrize("name", KINDS)
def test_every_optimizer_nears_the_goal(name: str) -> None:
    weights = {"a.weight": nn.Parameter(torch.zeros(8, 16)), "b.bias": nn.Parameter(torch.zeros(8))}
    goal = {
        key: torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) for key, weight in weights.items()
    }
    optimizer = make_optimizer(options_of(name, rate=RATES.get(name, 0.02)), weights=weights, seed=0)
    for _ in range(100):
        for key, weight in weights.items():
            weight.grad = 1e-3 * (weight.detach() - goal[key])
        optimizer.step()
    for key, weight in weights.items():
        assert (weight - goal[key]).abs().mean() < 0.5 * goal[key].abs().mean(), key


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, option) for name, kind in KINDS.items() for option in kind.settings],
    ids=lambda v: getattr(v, "name", v),
)
def test_every_setting_reaches_the_optimizer(name: str, setting: Option) -> None:
    """By another value the optimizer is given another number."""
    options_of(name)
    value = (not setting.default) if setting.kind is bool else setting.kind(NEW_VALUES.get(setting.name, 0.125))
    changed = OptimizerOptions(optimizer=name, optimizer_config=f"{setting.name}={written(value)}")
    weights = new_weights()
    usual = make_optimizer(OptimizerOptions(optimizer=name), weights=weights, seed=0)
    other = make_optimizer(changed, weights=weights, seed=0)

    def told(optimizer: torch.optim.Optimizer) -> str:
        return f"{optimizer.defaults} {getattr(optimizer, 'args', '')} {getattr(optimizer, 'clip_threshold', '')}"

    assert told(usual) != told(other)


def test_adamw8bit_moves_weights_as_adamw_does_with_a_quarter_of_its_memory() -> None:
    """Also where gradients differ a thousandfold in size, as those of a model's layers do."""
    start = 0.05 * torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    moved, remembered = {}, {}
    for name in ("adamw", "adamw8bit"):
        weights = {"a": nn.Parameter(start.clone())}
        options = OptimizerOptions(optimizer=name, learning_rate=1e-4) if name == "adamw" else options_of(name)
        optimizer = make_optimizer(options, weights=weights, seed=0)
        for step in range(60):
            noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(step))
            weights["a"].grad = torch.logspace(-6, -3, 64)[:, None] * (noise + start.sign())
            set_learning_rate(optimizer, 1e-4)
            optimizer.step()
        moved[name] = weights["a"].detach() - start
        remembered[name] = sum(tensor.nbytes for tensor in optimizer_state(optimizer, weights=weights)[0].values())
    cosine = torch.cosine_similarity(moved["adamw"].flatten(), moved["adamw8bit"].flatten(), dim=0)
    assert cosine > 0.999
    assert float(moved["adamw8bit"].norm()) == pytest.approx(float(moved["adamw"].norm()), rel=0.01)
    assert remembered["adamw8bit"] < 0.3 * remembered["adamw"]


def test_a_state_of_other_weights_is_refused() -> None:
    weights = new_weights()
    optimizer = make_optimizer(OptimizerOptions(), weights=weights, seed=0)
    take_steps(optimizer, weights, range(1))
    tensors, rest = optimizer_state(optimizer, weights=weights)
    fewer = {name: weight for name, weight in weights.items() if name != "b.weight"}
    with pytest.raises(CheckpointError, match=r"b\.weight"):
        restore_optimizer(
            make_optimizer(OptimizerOptions(), weights=fewer, seed=0), weights=fewer, tensors=tensors, text=rest
        )


def test_adafactor_steps_are_as_long_as_the_learning_rate_says() -> None:
    """Also for an adapter that starts at zero, and for the small gradients of a diffusion model."""
    weights = {"b": nn.Parameter(torch.zeros(32, 16))}
    optimizer = make_optimizer(OptimizerOptions(optimizer="adafactor", learning_rate=1e-4), weights=weights, seed=0)
    set_gradients(weights, 0, scale=1e-6)
    optimizer.step()
    moved = weights["b"].square().mean().sqrt().item()
    assert moved == pytest.approx(1e-4, rel=0.1)


def test_adafactor_leaves_weights_without_gradient_signal_finite() -> None:
    weights = {"a": nn.Parameter(torch.ones(8, 4))}
    optimizer = make_optimizer(OptimizerOptions(optimizer="adafactor"), weights=weights, seed=0)
    weights["a"].grad = torch.zeros(8, 4)
    optimizer.step()
    assert torch.equal(weights["a"], torch.ones(8, 4))


def test_text_encoders_move_at_a_rate_of_their_own() -> None:
    weights = {name: nn.Parameter(torch.zeros(4)) for name in ("text_encoder.a", "transformer.b", "text_encoder_2.c")}
    options = OptimizerOptions(learning_rate=0.1, text_encoder_lr=0.05, optimizer_config="weight_decay=0")
    optimizer = make_optimizer(options, weights=weights, seed=0)
    for weight in weights.values():
        weight.grad = torch.ones(4)
    set_learning_rate(optimizer, 0.02)  # a fifth of the way up a warm-up
    optimizer.step()
    moved = [-float(weight.detach().mean()) for weight in weights.values()]
    assert moved == pytest.approx([0.01, 0.02, 0.01])


def test_prodigy_finds_its_own_step_size() -> None:
    weights = {"a": nn.Parameter(torch.zeros(16))}
    optimizer = make_optimizer(OptimizerOptions(optimizer="prodigy", learning_rate=1.0), weights=weights, seed=0)
    goal = torch.linspace(-1, 1, 16)
    for _ in range(300):
        weights["a"].grad = (weights["a"].detach() - goal).sign()
        optimizer.step()
    assert (weights["a"] - goal).abs().mean() < 0.1


def test_only_the_chosen_optimizers_library_is_imported() -> None:
    code = """
import sys, torch
from helpers.config.options.training import OptimizerOptions
from helpers.training.optim.optimizers import make_optimizer
weights = {"a": torch.nn.Parameter(torch.ones(2))}
for name in ("adamw", "adamw_bf16", "adafactor"):
    make_optimizer(OptimizerOptions(optimizer=name), weights=weights, seed=0)
assert not {"torchao", "pytorch_optimizer", "transformers"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_optimizer_that_a_device_lacks_is_told_of_before_anything_is_encoded() -> None:
    for device in ("cpu", "cuda", "mps"):
        check_optimizer_on(torch.device(device), OptimizerOptions())
    check_optimizer_on(torch.device("cuda"), OptimizerOptions(optimizer="adamw8bit"))
    with pytest.raises(ConfigError, match="Apple's GPUs"):
        check_optimizer_on(torch.device("mps"), OptimizerOptions(optimizer="adamw8bit"))
