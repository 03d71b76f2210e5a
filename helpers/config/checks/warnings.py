"""Warnings about settings that are allowed but seldom meant: those without effect, and unusual learning rates."""

from collections.abc import Iterator

from helpers.config.optimizers import KINDS, LEARNING_RATE_FREE
from helpers.config.option import Option, written
from helpers.config.options.training import DECAYING_SCHEDULES
from helpers.config.train_config import RunConfig, all_options

MAX_USUAL_LR = 0.01
"""No recipe is known that trains well above this with the other optimizers."""

MAX_USUAL_LION_LR = 1e-4


def warnings(config: RunConfig) -> list[str]:
    """Warnings about settings that are allowed but seldom meant."""
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
    options, steps = config.optimizer, config.run.max_train_steps
    if options.optimizer not in LEARNING_RATE_FREE and options.learning_rate > MAX_USUAL_LR:
        yield f"LEARNING_RATE={options.learning_rate:g} is very large for {options.optimizer}; 1e-4 is usual"
    if options.lr_end > options.learning_rate and options.lr_scheduler in DECAYING_SCHEDULES:
        yield f"LR_END={options.lr_end:g} is more than LEARNING_RATE={options.learning_rate:g}, so the rate rises"
    if 0 < steps <= options.lr_warmup_steps and options.lr_scheduler != "constant":
        warmup = f"LR_WARMUP_STEPS={options.lr_warmup_steps}"
        yield f"{warmup} is as long as the run (MAX_NUM_STEPS={steps}), so the rate never reaches LEARNING_RATE"


def _odd_optimizers(config: RunConfig) -> Iterator[str]:
    options, kind = config.optimizer, KINDS[config.optimizer.optimizer]
    if kind.is_learning_rate_free and options.learning_rate != 1.0:
        rate = f"LEARNING_RATE={options.learning_rate:g}"
        yield f"{rate} multiplies the rate that {kind.name} finds itself; 1 is usual"
    if kind.name == "lion" and options.learning_rate >= MAX_USUAL_LION_LR:
        rate = f"LEARNING_RATE={options.learning_rate:g}"
        yield f"{rate} is high for lion; a third to a tenth of adamw's learning rate is usual"
    if kind.is_schedule_free and options.lr_scheduler in DECAYING_SCHEDULES:
        schedule = f"LR_SCHEDULE={options.lr_scheduler}"
        yield f"{schedule} is not needed with {kind.name}, which averages the weights instead; use constant_with_warmup"
    if (
        kind.name == "soap"
        and config.model.model_type == "full"
        and "max_precondition_dim" not in options.optimizer_config
    ):
        yield (
            "OPTIMIZER=soap hardly differs from adamw here: the matrices of MODEL_TYPE=full are larger than"
            + (" max_precondition_dim=1024; set OPTIMIZER_CONFIG=max_precondition_dim=2500 (twice the memory)")
        )


def _value(config: RunConfig, option: Option) -> object:
    return getattr(getattr(config, option.group), option.name)
