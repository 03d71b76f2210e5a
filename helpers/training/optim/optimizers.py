"""Makes the optimizer that is set, from the library that has it."""

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
    """The optimizer that `options` names, over `weights` by name; text encoders have their own learning rate."""
    optimizer = _make(options, weights=weights, seed=seed)
    of_text = {weight for name, weight in weights.items() if name.startswith(TEXT_ENCODERS)}
    if of_text and not KINDS[options.optimizer].is_learning_rate_free:
        group = optimizer.param_groups[0]
        everything = group["params"]
        group["params"] = [weight for weight in everything if weight not in of_text]
        share = (options.text_encoder_lr or options.learning_rate) / options.learning_rate
        text_weights = [weight for weight in everything if weight in of_text]
        optimizer.add_param_group({**group, "params": text_weights, LR_SCALE: share})
    return optimizer


def _make(options: OptimizerOptions, *, weights: Mapping[str, nn.Parameter], seed: int) -> Optimizer:
    """Only the library of this optimizer is imported."""
    parameters = list(weights.values())
    settings = {"lr": options.learning_rate, **_with_betas(options.settings)}
    match options.optimizer:
        case "adamw":
            fused = all(weight.device.type in FUSED_DEVICES for weight in parameters)
            return torch.optim.AdamW(parameters, **settings, fused=fused)
        case "adamw_bf16":
            from helpers.training.optim.stochastic_adamw import StochasticAdamW

            return StochasticAdamW(parameters, **settings, seed=seed)
        case "adamw8bit":
            library: Any = import_module("bitsandbytes.optim")  # installed on Linux only
            return library.AdamW8bit(parameters, **settings)
        case "adafactor":
            from helpers.training.optim.adafactor import Adafactor

            return Adafactor(parameters, **settings)
        case "prodigy":
            from pytorch_optimizer import Prodigy

            # As its authors recommend for diffusion models (https://github.com/konstmish/prodigy).
            return Prodigy(parameters, **settings)
        case "dadaptation":
            from pytorch_optimizer import DAdaptAdam

            return DAdaptAdam(parameters, **settings, weight_decouple=True)
        case "lion":
            from pytorch_optimizer import Lion

            return Lion(parameters, **settings)
        case "came":
            from pytorch_optimizer import CAME

            return CAME(parameters, **settings)
        case "soap":
            from pytorch_optimizer import SOAP

            return SOAP(parameters, **settings)
        case "adamw_schedulefree":
            from pytorch_optimizer import ScheduleFreeAdamW

            return ScheduleFreeAdamW(parameters, **settings)
        case "prodigy_schedulefree":
            library = import_module("prodigyplus")  # has no types
            return library.ProdigyPlusScheduleFree(parameters, **settings, split_groups=False)
        case unknown:
            raise AssertionError(f"optimizer {unknown} is declared and not built")


def check_optimizer_on(device: torch.device, options: OptimizerOptions) -> None:
    """Raise ConfigError if the optimizer does not support `device`."""
    if options.optimizer == "adamw8bit" and device.type == "mps":
        reason, fix = "bitsandbytes has no such optimizer for Apple's GPUs", "set OPTIMIZER=adafactor"
        raise ConfigError([Problem(option="OPTIMIZER", value="adamw8bit", reason=reason, fix=fix)])


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step to `rate`, times a group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(LR_SCALE, 1.0)


def _with_betas(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with `beta1`, `beta2` and so on as one tuple, as libraries expect."""
    betas = tuple(settings[key] for key in ("beta1", "beta2", "beta3") if key in settings)
    others = {key: value for key, value in settings.items() if key not in ("beta1", "beta2", "beta3")}
    return {**others, "betas": betas} if betas else others
