"""Lines about settings that are allowed and seldom meant: those without effect beside the others, and odd numbers."""

from collections.abc import Iterator

from helpers.config.declare import Option
from helpers.config.run_config import RunConfig, all_options
from helpers.config.values import written

FINDING_THEIR_RATE = ("prodigy", "dadaptation")
"""Optimisers that multiply an estimate of their own by the learning rate."""

OTHERS_MOST_RATE = 0.01
"""Nothing is known to survive a rate above this with the other optimisers."""

MOVING = ("linear", "cosine", "cosine_with_restarts", "polynomial", "sine")

ONLY_WITH = {
    "logit_mean": ("timestep_sampling", ("logit_normal",)),
    "logit_std": ("timestep_sampling", ("logit_normal",)),
    "mode_scale": ("timestep_sampling", ("mode",)),
    "lr_warmup_steps": ("lr_scheduler", ("constant_with_warmup", *MOVING)),
    "lr_end": ("lr_scheduler", MOVING),
    "lr_power": ("lr_scheduler", ("polynomial",)),
    "lr_num_cycles": ("lr_scheduler", ("cosine_with_restarts", "sine")),
    "lora_rank": ("model_type", ("lora",)),
    "lora_alpha": ("model_type", ("lora",)),
    "lora_dropout": ("model_type", ("lora",)),
    "lora_target": ("model_type", ("lora",)),
}
"""Options that have an effect only where another has one of these values."""


def remarks(config: RunConfig) -> list[str]:
    """Lines about settings that are allowed but seldom meant."""
    return [*_without_effect(config), *_odd_rates(config)]


def _without_effect(config: RunConfig) -> Iterator[str]:
    options = {option.name: option for option in all_options()}
    for name, (other, values) in ONLY_WITH.items():
        value, ruling = _value(config, options[name]), _value(config, options[other])
        if value != options[name].default and ruling not in values:
            yield f"{options[name].env}={written(value)} does nothing with {options[other].env}={written(ruling)}"


def _odd_rates(config: RunConfig) -> Iterator[str]:
    said, steps = config.optimizer, config.run.max_train_steps
    if said.optimizer not in FINDING_THEIR_RATE and said.learning_rate > OTHERS_MOST_RATE:
        yield f"LEARNING_RATE={said.learning_rate:g} is very large for {said.optimizer}; 1e-4 is usual"
    if said.lr_end > said.learning_rate and said.lr_scheduler in MOVING:
        yield f"LR_END={said.lr_end:g} is more than LEARNING_RATE={said.learning_rate:g}, so the rate rises"
    if 0 < steps <= said.lr_warmup_steps and said.lr_scheduler != "constant":
        warmup = f"LR_WARMUP_STEPS={said.lr_warmup_steps}"
        yield f"{warmup} is the whole run (MAX_NUM_STEPS={steps}), so the rate never comes to LEARNING_RATE"


def _value(config: RunConfig, option: Option) -> object:
    return getattr(getattr(config, option.group), option.name)
