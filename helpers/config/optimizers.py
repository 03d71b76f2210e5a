"""Every supported optimizer: its settings and properties."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from helpers.config.option import ChangeRule, OnResume, Option, WrongValue, read_value
from helpers.config.suggestions import did_you_mean

LARGEST_BETA = 0.999999


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """One optimizer.

    summary: what to use it for, in a few words.
    settings: what `optimizer_config` can set, with the defaults.
    state_bytes_per_param: optimizer state per trainable parameter.
    is_learning_rate_free: whether it finds a learning rate itself and multiplies it by the option's.
    is_schedule_free: whether the result is an average of the weights that it keeps, not the current weights.
    supports_fused_backward: whether it updates each weight from that weight's gradient and state alone, and counts
        steps per weight.
    package, module: the package to install and the module to import, if it needs one; else empty.
    """

    name: str
    summary: str
    settings: tuple[Option, ...]
    state_bytes_per_param: int
    is_learning_rate_free: bool = False
    is_schedule_free: bool = False
    supports_fused_backward: bool = False
    package: str = ""
    module: str = ""

    @property
    def is_installed(self) -> bool:
        """Whether the package it needs is installed."""
        return not self.module or find_spec(self.module) is not None


def _key(name: str, default: float | bool, *, help: str, minimum: float | None = 0.0, **bounds: Any) -> Option:
    bounds = {} if isinstance(default, bool) else {"minimum": minimum, **bounds}
    return Option(
        group="optimizer_config",
        name=name,
        kind=type(default),
        optional=False,
        default=default,
        help=help,
        on_change=ChangeRule(on_resume=OnResume.REFUSE),
        env="",
        **bounds,
    )


def _decay(default: float = 0.01) -> Option:
    return _key("weight_decay", default, help="weight decay, times the learning rate")


def _betas(*defaults: float) -> tuple[Option, ...]:
    what = ("share of the mean gradient that stays", "of the mean square", "of the mean square of what is left")
    return tuple(
        _key(f"beta{number}", default, help=f"{what[number - 1]} at each step", maximum=LARGEST_BETA)
        for number, default in enumerate(defaults, 1)
    )


def _eps(default: float = 1e-8) -> Option:
    return _key("eps", default, help="added to divisors, so that none is zero")


_ADAM = (_decay(), *_betas(0.9, 0.999), _eps())
_FIRST_GUESS = _key("d0", 1e-6, help="the learning rate to start with", minimum=None, above=0.0)
_GROWTH = _key(
    "growth_rate", math.inf, help="maximum growth of the learning rate in one step, as a factor", minimum=1.0
)

KINDS = {
    kind.name: kind
    for kind in (
        OptimizerSpec(
            name="adamw",
            summary="the default, which most recipes are written for",
            settings=_ADAM,
            state_bytes_per_param=8,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="adamw_bf16",
            summary="full fine-tuning with little memory: weights and state in bf16, with stochastic rounding",
            settings=_ADAM,
            state_bytes_per_param=4,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="adamw8bit",
            summary="AdamW with 8-bit state, from bitsandbytes",
            settings=(*_ADAM, _key("min_8bit_size", 4096, help="smaller weights keep 32-bit state")),
            state_bytes_per_param=2,
            package="bitsandbytes",
            module="bitsandbytes",
        ),
        OptimizerSpec(
            name="adafactor",
            summary="almost no memory: keeps one row and one column per matrix",
            settings=(
                _decay(0.0),
                _key(
                    "beta2_decay",
                    -0.8,
                    help="exponent by which the mean square covers more steps over time",
                    minimum=-1.0,
                    maximum=0.0,
                ),
                _key("d", 1.0, help="largest step, before the learning rate", minimum=1.0),
            ),
            state_bytes_per_param=0,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="prodigy",
            summary="finds the learning rate itself",
            settings=(
                *_ADAM,
                _FIRST_GUESS,
                _key(
                    "d_coef", 1.0, help="factor for the learning rate that it finds: 0.5 to 2", minimum=None, above=0.0
                ),
                _GROWTH,
                _key("bias_correction", True, help="larger first steps, as in Adam"),
                _key("safeguard_warmup", True, help="do not mistake a warm-up for a small learning rate"),
            ),
            state_bytes_per_param=16,
            is_learning_rate_free=True,
        ),
        OptimizerSpec(
            name="dadaptation",
            summary="finds the learning rate itself, more slowly than Prodigy",
            settings=(*_ADAM, _FIRST_GUESS, _GROWTH, _key("bias_correction", False, help="larger first steps")),
            state_bytes_per_param=12,
            is_learning_rate_free=True,
        ),
        OptimizerSpec(
            name="lion",
            summary="half of AdamW's memory; needs a third to a tenth of its learning rate",
            settings=(_decay(), *_betas(0.9, 0.99)),
            state_bytes_per_param=4,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="came",
            summary="half of AdamW's memory: Adafactor's rows and columns with a confidence estimate",
            settings=(
                _decay(),
                *_betas(0.9, 0.999, 0.9999),
                _key("clip_threshold", 1.0, help="largest step, before the learning rate", minimum=None, above=0.0),
            ),
            state_bytes_per_param=4,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="soap",
            summary="Adam in the eigenbasis of each matrix: fewer, slower steps",
            settings=(
                _decay(),
                *_betas(0.95, 0.95),
                _eps(),
                _key("precondition_frequency", 10, help="steps between updates of the eigenbasis", minimum=1),
                _key("max_precondition_dim", 1024, help="longer sides of matrices are not rotated", minimum=1),
            ),
            state_bytes_per_param=8,
        ),
        OptimizerSpec(
            name="adamw_schedulefree",
            summary="needs no schedule: averages the weights during training, and the average is the result",
            settings=(
                _decay(),
                _key(
                    "beta1", 0.9, help="how close to the average gradients are computed", minimum=0.001, maximum=0.999
                ),
                _key("beta2", 0.999, help="share of the mean square that stays at each step", maximum=LARGEST_BETA),
                _eps(),
                _key("r", 0.0, help="how much more later steps count in the average"),
                _key("weight_lr_power", 2.0, help="how much more steps at a high learning rate count in the average"),
            ),
            state_bytes_per_param=8,
            is_schedule_free=True,
        ),
        OptimizerSpec(
            name="prodigy_schedulefree",
            summary="finds the learning rate itself and needs no schedule, with half of Prodigy's memory",
            settings=(
                _decay(0.0),
                _key(
                    "beta1", 0.9, help="how close to the average gradients are computed", minimum=0.001, maximum=0.999
                ),
                _key("beta2", 0.99, help="share of the mean square that stays at each step", maximum=LARGEST_BETA),
                _eps(),
                _FIRST_GUESS,
                _key(
                    "d_coef", 1.0, help="factor for the learning rate that it finds: 0.5 to 2", minimum=None, above=0.0
                ),
                _key("prodigy_steps", 0, help="steps after which the learning rate is fixed; 0 for never"),
            ),
            state_bytes_per_param=8,
            is_learning_rate_free=True,
            is_schedule_free=True,
            package="prodigy-plus-schedule-free",
            module="prodigyplus",
        ),
    )
}
OPTIMIZERS = tuple(KINDS)
FUSABLE_OPTIMIZERS = tuple(name for name, kind in KINDS.items() if kind.supports_fused_backward)
LEARNING_RATE_FREE = tuple(name for name, kind in KINDS.items() if kind.is_learning_rate_free)
"""Optimizers that multiply an estimate of their own by the learning rate."""


def settings_of(optimizer: str, *, config: str) -> dict[str, Any]:
    """The optimizer's settings: the defaults, overridden by `config`, a valid comma-separated list of `key=value`."""
    settings = {option.name: option.default for option in KINDS[optimizer].settings}
    for key, text in _pairs(config):
        settings[key] = read_value(_options(optimizer)[key], text=text)
    return settings


def check_optimizer_settings(optimizer: str, *, config: str) -> Iterator[tuple[str, str, str]]:
    """The mistakes in `config`: the setting, the reason and the fix."""
    options = _options(optimizer)
    seen: set[str] = set()
    for key, text in _pairs(config):
        pair = f"{key}={text}"
        if key in seen:
            yield pair, "it is set twice", "set it once"
        seen.add(key)
        if key not in options:
            fix = did_you_mean(key, options, otherwise=f"use one of {', '.join(options)}")
            yield pair, f"{optimizer} has no setting of that name", fix
            continue
        try:
            read_value(options[key], text=text)
        except WrongValue as wrong:
            yield pair, wrong.reason, wrong.fix


def _options(optimizer: str) -> dict[str, Option]:
    return {option.name: option for option in KINDS[optimizer].settings}


def _pairs(config: str) -> Iterator[tuple[str, str]]:
    for pair in config.split(","):
        if pair.strip():
            key, _, text = pair.partition("=")
            yield key.strip(), text.strip()
