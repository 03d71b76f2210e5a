"""The rules that move the weights: each from the library that keeps it, with the settings that were asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from helpers.config.optimizers import KINDS
from helpers.config.options.training import OptimizerOptions
from helpers.errors import ConfigError, Problem
from helpers.training.optim.optimizer_state import LR_SCALE

FUSED_DEVICES = ("cpu", "cuda", "mps")
TEXT_ENCODERS = "text_encoder"


def make_optimizer(options: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], seed: int) -> Optimizer:
    """The optimizer that `options` names, over `weights` by name; text encoders' have a learning rate of their own."""
    optimizer = _made(options, weights=weights, seed=seed)
    of_text = {weight for name, weight in weights.items() if name.startswith(TEXT_ENCODERS)}
    if of_text and not KINDS[options.optimizer].is_learning_rate_free:
        group = optimizer.param_groups[0]
        both, group["params"] = group["params"], [weight for weight in group["params"] if weight not in of_text]
        share = (options.text_encoder_lr or options.learning_rate) / options.learning_rate
        theirs = [weight for weight in both if weight in of_text]
        optimizer.add_param_group({**group, "params": theirs, LR_SCALE: share})
    return optimizer


def _made(options: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], seed: int) -> Optimizer:
    """Only its own library is imported."""
    parameters = list(weights.values())
    said = {"lr": options.learning_rate, **_with_betas(options.settings)}
    match options.optimizer:
        case "adamw":
            fused = all(weight.device.type in FUSED_DEVICES for weight in parameters)
            return torch.optim.AdamW(parameters, **said, fused=fused)
        case "adamw_bf16":
            from helpers.training.optim.stochastic_adamw import StochasticAdamW

            return StochasticAdamW(parameters, **said, seed=seed)
        case "adamw8bit":
            library: Any = import_module("bitsandbytes.optim")  # which is installed on Linux only
            return library.AdamW8bit(parameters, **said)
        case "adafactor":
            from helpers.training.optim.adafactor import Adafactor

            return Adafactor(parameters, **said)
        case "prodigy":
            from pytorch_optimizer import Prodigy

            # As its authors advise for diffusion models (https://github.com/konstmish/prodigy).
            return Prodigy(parameters, **said)
        case "dadaptation":
            from pytorch_optimizer import DAdaptAdam

            return DAdaptAdam(parameters, **said, weight_decouple=True)
        case "lion":
            from pytorch_optimizer import Lion

            return Lion(parameters, **said)
        case "came":
            from pytorch_optimizer import CAME

            return CAME(parameters, **said)
        case "soap":
            from pytorch_optimizer import SOAP

            return SOAP(parameters, **said)
        case "adamw_schedulefree":
            from pytorch_optimizer import ScheduleFreeAdamW

            return ScheduleFreeAdamW(parameters, **said)
        case "prodigy_schedulefree":
            library = import_module("prodigyplus")  # has no types
            return library.ProdigyPlusScheduleFree(parameters, **said, split_groups=False)
        case unknown:
            raise AssertionError(f"optimizer {unknown} is declared and not built")


def check_optimizer_on(device: torch.device, options: OptimizerOptions) -> None:
    """Raise ConfigError where the optimizer cannot compute on `device`."""
    if options.optimizer == "adamw8bit" and device.type == "mps":
        reason, fix = "bitsandbytes has no such optimizer for Apple's GPUs", "say OPTIMIZER=adafactor"
        raise ConfigError([Problem(option="OPTIMIZER", value="adamw8bit", reason=reason, fix=fix)])


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Let the next step move the weights at `rate`, or a group's own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_SCALE, 1.0)


def _with_betas(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `beta1`, `beta2` and so on as the one tuple that libraries take."""
    betas = tuple(settings[key] for key in ("beta1", "beta2", "beta3") if key in settings)
    others = {key: value for key, value in settings.items() if key not in ("beta1", "beta2", "beta3")}
    return {**others, "betas": betas} if betas else others
