"""Saves and restores the state of any optimizer without losing a bit."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.errors import CheckpointError
from helpers.training.distributed.sharded_tensors import full_tensor, shard_like

LR_SCALE = "share_of_rate"
# Not saved of a group: weights are known by name, the learning rate is set at each step.
NOT_SAVED = ("params", "lr", LR_SCALE)
STRIDE = "stride"


def optimizer_state(optimizer: Optimizer, *, weights: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], str]:
    """The optimizer state: its tensors by name, and the rest as JSON with exact numbers.

    The learning rate is left out, as the schedule sets it at each step. With sharded weights this is collective: all
    ranks call it, and each gets the full state.
    """
    tensors: dict[str, Tensor] = {}
    groups = [
        {
            key: _described(value, name=f"group {index}/{key}", tensors=tensors)
            for key, value in group.items()
            if key not in NOT_SAVED
        }
        for index, group in enumerate(optimizer.param_groups)
    ]
    per_weight = {
        name: {
            key: _described(value, name=f"{name}/{key}", tensors=tensors)
            for key, value in optimizer.state[weight].items()
        }
        for name, weight in weights.items()
        if weight in optimizer.state
    }
    return tensors, json.dumps({"groups": groups, "weights": per_weight}, indent=1)


def restore_optimizer(
    optimizer: Optimizer, *, weights: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], text: str
) -> None:
    """Load the state that `optimizer_state` returned into a new `optimizer`.

    Raises CheckpointError for unknown weights.
    """
    saved = json.loads(text)
    if unknown := sorted(set(saved["weights"]) - set(weights)):
        raise CheckpointError(
            f"The checkpoint's optimizer state has {len(unknown)} weights that this adapter does not have, such as"
            f" {unknown[0]}: it was saved with another lora_target or another model."
        )
    device = next(iter(weights.values())).device
    for index, (group, values) in enumerate(zip(optimizer.param_groups, saved["groups"], strict=True)):
        for key, value in values.items():
            found = _rebuilt(value, name=f"group {index}/{key}", tensors=tensors, device=device)
            group[key] = tuple(found) if isinstance(found, list) else found
    # As torch's own `load_state_dict` does: a step counter stays on the CPU unless the fused kernel reads it.
    counts_on = device if optimizer.param_groups[0].get("fused") else torch.device("cpu")
    for name, values in saved["weights"].items():
        optimizer.state[weights[name]] = {
            key: shard_like(
                _rebuilt(value, name=f"{name}/{key}", tensors=tensors, device=counts_on if key == "step" else device),
                weights[name],
            )
            for key, value in values.items()
        }


def _described(value: Any, *, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go into `tensors`, named after `name` and their index."""
    if isinstance(value, Tensor):
        # A single number may have any stride, as a slice of a longer tensor does; in a file it must be 1.
        value = full_tensor(value)
        tensors[name] = value if value.numel() > 1 else value.clone(memory_format=torch.contiguous_format)
        return {STRIDE: value.stride()}
    if isinstance(value, list | tuple):
        return [_described(each, name=f"{name}/{index}", tensors=tensors) for index, each in enumerate(value)]
    return value


def _rebuilt(value: Any, *, name: str, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The inverse of `_described`. Strides are kept, since the rounding of matrix products depends on them."""
    if isinstance(value, dict):
        saved = tensors[name]
        return torch.empty_strided(saved.shape, value[STRIDE], dtype=saved.dtype, device=device).copy_(saved)
    if isinstance(value, list):
        return [_rebuilt(each, name=f"{name}/{i}", tensors=tensors, device=device) for i, each in enumerate(value)]
    return value
