"""Lines about settings that are allowed and seldom meant: those without effect beside the others, and odd numbers."""

from collections.abc import Iterator

from helpers.config.optimizers import FINDING_THEIR_RATE, KINDS
from helpers.config.option import Option
from helpers.config.train_config import RunConfig, all_options
from helpers.config.values import written

OTHERS_MOST_RATE = 0.01
"""Nothing is known to survive a rate above this with the other optimizers."""

LIONS_MOST_RATE = 1e-4

MOVING = ("linear", "cosine", "cosine_with_restarts", "polynomial", "sine")

ONLY_WITH = {
    "logit_mean": ("timestep_sampling", ("logit_normal",)),
    "logit_std": ("timestep_sampling", ("logit_normal",)),
    "mode_scale": ("timestep_sampling", ("mode",)),
    "lr_warmup_steps": ("lr_scheduler", ("constant_with_warmup", *MOVING)),
    "lr_end": ("lr_scheduler", MOVING),
    "lr_power": ("lr_scheduler", ("polynomial",)),
    "lr_num_cycles": ("lr_scheduler", ("cosine_with_restarts", "sine")),
    "gradient_checkpointing_interval": ("gradient_checkpointing", (True,)),
    "lora_rank": ("model_type", ("lora",)),
    "lora_alpha": ("model_type", ("lora",)),
    "lora_dropout": ("model_type", ("lora",)),
    "lora_target": ("model_type", ("lora",)),
    "lora_ranks": ("lora_type", ("standard",)),
    "lora_init_type": ("model_type", ("lora",)),
    "init_lora": ("model_type", ("lora",)),
    "lora_type": ("model_type", ("lora",)),
    "lycoris_config": ("lora_type", ("lycoris",)),
    "use_dora": ("model_type", ("lora",)),
    "use_rslora": ("model_type", ("lora",)),
    "text_encoder_lr": ("train_text_encoder", (True,)),
    "push_checkpoints_to_hub": ("push_to_hub", (True,)),
    "hub_private": ("push_to_hub", (True,)),
}
"""Options that have an effect only where another has one of these values."""


def remarks(config: RunConfig) -> list[str]:
    """Lines about settings that are allowed but seldom meant."""
    return [*_without_effect(config), *_odd_rates(config), *_odd_optimizers(config)]


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


def _odd_optimizers(config: RunConfig) -> Iterator[str]:
    said, kind = config.optimizer, KINDS[config.optimizer.optimizer]
    if kind.finds_rate and said.learning_rate != 1.0:
        yield f"LEARNING_RATE={said.learning_rate:g} multiplies the rate that {kind.name} finds itself; 1 is usual"
    if kind.name == "lion" and said.learning_rate >= LIONS_MOST_RATE:
        rate = f"LEARNING_RATE={said.learning_rate:g}"
        yield f"{rate} moves every weight by as much with lion: a third to a tenth of adamw's rate is usual"
    if kind.averages and said.lr_scheduler in MOVING:
        schedule = f"LR_SCHEDULE={said.lr_scheduler}"
        yield f"{schedule} does what {kind.name} does by averaging; constant_with_warmup is meant for it"
    if (
        kind.name == "soap"
        and config.model.model_type == "full"
        and "max_precondition_dim" not in said.optimizer_config
    ):
        yield "OPTIMIZER=soap is little more than adamw here: MODEL_TYPE=full has matrices with longer sides than" + (
            " max_precondition_dim=1024; say OPTIMIZER_CONFIG=max_precondition_dim=2500 (twice the memory)"
        )


def _value(config: RunConfig, option: Option) -> object:
    return getattr(getattr(config, option.group), option.name)
