"""Every optimizer that can be asked for: what may be set of it, and what must be known of it before it is built."""

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

    good_for: in a few words.
    settings: what `optimizer_config` may say of it, with what holds where nothing is said.
    state_bytes_per_param: of what it remembers for each trained number.
    is_learning_rate_free: whether it multiplies a rate that it finds itself by the learning rate.
    averages: whether the weights to hand on are an average that it keeps, instead of those it trains with.
    supports_fused_backward: whether it moves each weight by its own gradient and memory alone, and counts its steps one by one.
    package, module: what else must be installed, as pip and as Python call it; empty for none.
    """

    name: str
    good_for: str
    settings: tuple[Option, ...]
    state_bytes_per_param: int
    is_learning_rate_free: bool = False
    averages: bool = False
    supports_fused_backward: bool = False
    package: str = ""
    module: str = ""

    @property
    def is_here(self) -> bool:
        """Whether all that it needs is installed."""
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
    return _key("weight_decay", default, help="how fast weights shrink, times the rate")


def _betas(*defaults: float) -> tuple[Option, ...]:
    what = ("how much of the mean gradient stays", "of the mean square", "of the mean square of what is left")
    return tuple(
        _key(f"beta{number}", default, help=f"{what[number - 1]} at each step", maximum=LARGEST_BETA)
        for number, default in enumerate(defaults, 1)
    )


def _eps(default: float = 1e-8) -> Option:
    return _key("eps", default, help="keeps small divisors from nothing")


_ADAM = (_decay(), *_betas(0.9, 0.999), _eps())
_FIRST_GUESS = _key("d0", 1e-6, help="the rate that it begins with", minimum=None, above=0.0)
_GROWTH = _key("growth_rate", math.inf, help="how many times the rate may grow in one step", minimum=1.0)

KINDS = {
    kind.name: kind
    for kind in (
        OptimizerSpec(
            name="adamw",
            good_for="the usual choice, which recipes are written for",
            settings=_ADAM,
            state_bytes_per_param=8,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="adamw_bf16",
            good_for="the least memory for a whole model: weights and memory in bf16, rounded at random",
            settings=_ADAM,
            state_bytes_per_param=4,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="adamw8bit",
            good_for="AdamW that remembers 8 bits of each number, through bitsandbytes",
            settings=(*_ADAM, _key("min_8bit_size", 4096, help="weights of fewer numbers are remembered in 32 bits")),
            state_bytes_per_param=2,
            package="bitsandbytes",
            module="bitsandbytes",
        ),
        OptimizerSpec(
            name="adafactor",
            good_for="next to no memory: a row and a column for each matrix",
            settings=(
                _decay(0.0),
                _key("beta2_decay", -0.8, help="how the mean square's memory grows", minimum=-1.0, maximum=0.0),
                _key("d", 1.0, help="the longest step, before the rate", minimum=1.0),
            ),
            state_bytes_per_param=0,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="prodigy",
            good_for="finds the learning rate itself",
            settings=(
                *_ADAM,
                _FIRST_GUESS,
                _key("d_coef", 1.0, help="times the rate that it finds: 0.5 to 2", minimum=None, above=0.0),
                _GROWTH,
                _key("bias_correction", True, help="longer first steps, as Adam's"),
                _key("safeguard_warmup", True, help="do not mistake a warm-up for a small rate"),
            ),
            state_bytes_per_param=16,
            is_learning_rate_free=True,
        ),
        OptimizerSpec(
            name="dadaptation",
            good_for="finds the learning rate itself, more slowly than Prodigy",
            settings=(*_ADAM, _FIRST_GUESS, _GROWTH, _key("bias_correction", False, help="longer first steps")),
            state_bytes_per_param=12,
            is_learning_rate_free=True,
        ),
        OptimizerSpec(
            name="lion",
            good_for="half of AdamW's memory; wants a third to a tenth of its rate",
            settings=(_decay(), *_betas(0.9, 0.99)),
            state_bytes_per_param=4,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="came",
            good_for="half of AdamW's memory, with Adafactor's rows and columns made surer",
            settings=(
                _decay(),
                *_betas(0.9, 0.999, 0.9999),
                _key("clip_threshold", 1.0, help="the longest step, before the rate", minimum=None, above=0.0),
            ),
            state_bytes_per_param=4,
            supports_fused_backward=True,
        ),
        OptimizerSpec(
            name="soap",
            good_for="Adam along each matrix's own directions: fewer steps, each slower",
            settings=(
                _decay(),
                *_betas(0.95, 0.95),
                _eps(),
                _key("precondition_frequency", 10, help="steps between new directions", minimum=1),
                _key("max_precondition_dim", 1024, help="longer sides of matrices stay as they are", minimum=1),
            ),
            state_bytes_per_param=8,
        ),
        OptimizerSpec(
            name="adamw_schedulefree",
            good_for="needs no schedule: keeps an average as it goes, and that is the result",
            settings=(
                _decay(),
                _key("beta1", 0.9, help="how near to the average gradients are taken", minimum=0.001, maximum=0.999),
                _key("beta2", 0.999, help="how much of the mean square stays at each step", maximum=LARGEST_BETA),
                _eps(),
                _key("r", 0.0, help="how much more later steps count in the average"),
                _key("weight_lr_power", 2.0, help="how much more steps at a high rate count in it"),
            ),
            state_bytes_per_param=8,
            averages=True,
        ),
        OptimizerSpec(
            name="prodigy_schedulefree",
            good_for="both: finds the learning rate and needs no schedule, in half of Prodigy's memory",
            settings=(
                _decay(0.0),
                _key("beta1", 0.9, help="how near to the average gradients are taken", minimum=0.001, maximum=0.999),
                _key("beta2", 0.99, help="how much of the mean square stays at each step", maximum=LARGEST_BETA),
                _eps(),
                _FIRST_GUESS,
                _key("d_coef", 1.0, help="times the rate that it finds: 0.5 to 2", minimum=None, above=0.0),
                _key("prodigy_steps", 0, help="steps after which the rate stays as it is; 0 for never"),
            ),
            state_bytes_per_param=8,
            is_learning_rate_free=True,
            averages=True,
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
    """The optimizer's settings: what `config` says, a comma list of `key=value` without mistakes, over the defaults."""
    settings = {option.name: option.default for option in KINDS[optimizer].settings}
    for key, text in _pairs(config):
        settings[key] = read_value(_options(optimizer)[key], text=text)
    return settings


def wrong_settings(optimizer: str, *, config: str) -> Iterator[tuple[str, str, str]]:
    """What is wrong with `config`: the words, why, and the fix."""
    options = _options(optimizer)
    seen: set[str] = set()
    for key, text in _pairs(config):
        said = f"{key}={text}"
        if key in seen:
            yield said, "it is said before, too", "say it once"
        seen.add(key)
        if key not in options:
            fix = did_you_mean(key, options, otherwise=f"say one of {', '.join(options)}")
            yield said, f"{optimizer} has no setting of that name", fix
            continue
        try:
            read_value(options[key], text=text)
        except WrongValue as wrong:
            yield said, wrong.reason, wrong.fix


def _options(optimizer: str) -> dict[str, Option]:
    return {option.name: option for option in KINDS[optimizer].settings}


def _pairs(config: str) -> Iterator[tuple[str, str]]:
    for pair in config.split(","):
        if pair.strip():
            key, _, text = pair.partition("=")
            yield key.strip(), text.strip()
