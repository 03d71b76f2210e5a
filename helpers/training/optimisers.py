"""The rules that move the weights, and how what they remember is written down and read back without losing a bit."""

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.config.options.training import OptimizerOptions
from helpers.errors import CheckpointError

# Of a group's values: its weights are known by name, its learning rate is set at each step.
SAID_ANEW = ("params", "lr")
FUSED_DEVICES = ("cpu", "cuda", "mps")
WEIGHT_DECAY = 1e-2
# Gradients of a diffusion model are around 1e-5: Adafactor's own bound on their squares, 1e-7, would hide them.
ADAFACTOR_SMALLEST_SQUARE = 1e-16


def make_optimiser(options: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], seed: int) -> Optimizer:
    """The optimiser that `options` names, over `weights` by name; only its own library is imported."""
    parameters = list(weights.values())
    rate = options.learning_rate
    match options.optimizer:
        case "adamw":
            fused = all(weight.device.type in FUSED_DEVICES for weight in parameters)
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=WEIGHT_DECAY, fused=fused)
        case "adamw_bf16":
            from helpers.training.stochastic_adamw import StochasticAdamW

            return StochasticAdamW(parameters, lr=rate, weight_decay=WEIGHT_DECAY, seed=seed)
        case "adafactor":
            # Second number 1: steps are as long as the learning rate says and not in proportion to the weights, which
            # would keep an adapter that starts at zero from moving (`scale_parameter=False` elsewhere).
            return torch.optim.Adafactor(parameters, lr=rate, eps=(ADAFACTOR_SMALLEST_SQUARE, 1.0))
        case "prodigy":
            from pytorch_optimizer import Prodigy

            # As its authors advise for diffusion models (https://github.com/konstmish/prodigy).
            return Prodigy(parameters, lr=rate, weight_decay=WEIGHT_DECAY, bias_correction=True, safeguard_warmup=True)
        case unknown:
            raise AssertionError(f"optimizer {unknown} is declared and not built")


def set_learning_rate(optimiser: Optimizer, rate: float) -> None:
    """Let the next step move the weights at `rate`."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def optimiser_state(optimiser: Optimizer, *, weights: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], str]:
    """All the optimiser remembers: its tensors by name, and the rest as JSON, whose numbers are exact.

    The learning rate is left out: the schedule says it anew at each step.
    """
    tensors: dict[str, Tensor] = {}
    groups = [
        _without_tensors(group, prefix=f"group {index}", tensors=tensors)
        for index, group in enumerate(optimiser.param_groups)
    ]
    per_weight = {
        name: _without_tensors(optimiser.state[weight], prefix=name, tensors=tensors)
        for name, weight in weights.items()
        if weight in optimiser.state
    }
    return tensors, json.dumps({"groups": groups, "weights": per_weight}, indent=1)


def restore_optimiser(
    optimiser: Optimizer, *, weights: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], text: str
) -> None:
    """Make a new `optimiser` remember what `optimiser_state` wrote; raises CheckpointError for unknown weights."""
    saved = json.loads(text)
    if unknown := sorted(set(saved["weights"]) - set(weights)):
        raise CheckpointError(
            f"The checkpoint's optimiser remembers {len(unknown)} weights that this adapter does not have, such as"
            f" {unknown[0]}: it was saved with another lora_target or another model."
        )
    device = next(iter(weights.values())).device
    by_owner: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        by_owner[owner][key] = tensor
    for index, (group, values) in enumerate(zip(optimiser.param_groups, saved["groups"], strict=True)):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
        group.update({key: value.to(device) for key, value in by_owner[f"group {index}"].items()})
    fused = bool(optimiser.param_groups[0].get("fused"))
    for name, values in saved["weights"].items():
        # As torch's own `load_state_dict` does: a step counter stays on the processor unless the fused kernel reads it.
        placed = {key: v if key == "step" and not fused else v.to(device) for key, v in by_owner[name].items()}
        optimiser.state[weights[name]] = values | placed


def _without_tensors(values: Mapping[str, Any], *, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The values JSON can hold; the tensors among `values` are put in `tensors`, named after `prefix` and key."""
    tensors.update({f"{prefix}/{key}": value for key, value in values.items() if isinstance(value, Tensor)})
    return {key: value for key, value in values.items() if key not in SAID_ANEW and not isinstance(value, Tensor)}
