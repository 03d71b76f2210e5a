"""Lines about settings that are allowed and seldom meant: those without effect beside the others, and odd numbers."""

from collections.abc import Iterator

from helpers.config.optimizers import KINDS, LEARNING_RATE_FREE
from helpers.config.option import Option, written
from helpers.config.options.training import DECAYING_SCHEDULES
from helpers.config.train_config import RunConfig, all_options

OTHERS_MOST_RATE = 0.01
"""Nothing is known to survive a rate above this with the other optimizers."""

LIONS_MOST_RATE = 1e-4


def warnings(config: RunConfig) -> list[str]:
    """Lines about settings that are allowed but seldom meant."""
    return [*_without_effect(config), *_odd_rates(config), *_odd_optimizers(config)]


def _without_effect(config: RunConfig) -> Iterator[str]:
    options = {option.name: option for option in all_options()}
    for option in options.values():
        if option.requires is None:
            continue
        other, values = options[option.requires[0]], option.requires[1]
        value, current = _value(config, option), _value(config, other)
        if value != option.default and current not in values:
            yield f"{option.env}={written(value)} has no effect with {other.env}={written(current)}"


def _odd_rates(config: RunConfig) -> Iterator[str]:
    said, steps = config.optimizer, config.run.max_train_steps
    if said.optimizer not in LEARNING_RATE_FREE and said.learning_rate > OTHERS_MOST_RATE:
        yield f"LEARNING_RATE={said.learning_rate:g} is very large for {said.optimizer}; 1e-4 is usual"
    if said.lr_end > said.learning_rate and said.lr_scheduler in DECAYING_SCHEDULES:
        yield f"LR_END={said.lr_end:g} is more than LEARNING_RATE={said.learning_rate:g}, so the rate rises"
    if 0 < steps <= said.lr_warmup_steps and said.lr_scheduler != "constant":
        warmup = f"LR_WARMUP_STEPS={said.lr_warmup_steps}"
        yield f"{warmup} is the whole run (MAX_NUM_STEPS={steps}), so the rate never comes to LEARNING_RATE"


def _odd_optimizers(config: RunConfig) -> Iterator[str]:
    said, kind = config.optimizer, KINDS[config.optimizer.optimizer]
    if kind.is_learning_rate_free and said.learning_rate != 1.0:
        yield f"LEARNING_RATE={said.learning_rate:g} multiplies the rate that {kind.name} finds itself; 1 is usual"
    if kind.name == "lion" and said.learning_rate >= LIONS_MOST_RATE:
        rate = f"LEARNING_RATE={said.learning_rate:g}"
        yield f"{rate} moves every weight by as much with lion: a third to a tenth of adamw's rate is usual"
    if kind.is_schedule_free and said.lr_scheduler in DECAYING_SCHEDULES:
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
