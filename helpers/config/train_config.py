"""The configuration of a run: its option groups, frozen."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from helpers.config.option import Option, options_in
from helpers.config.options.data import CacheOptions, DataOptions
from helpers.config.options.finetune import EmaOptions, FullOptions
from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions, TextOptions
from helpers.config.options.output import ExportOptions, PublishingOptions, ReportingOptions
from helpers.config.options.speed import SpeedOptions
from helpers.config.options.training import (
    CheckpointOptions,
    ObjectiveOptions,
    OptimizerOptions,
    RunOptions,
)
from helpers.config.options.validation import EvalOptions, ValidationOptions


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every option's value, by group; below `train.py` a function receives its own group only."""

    model: ModelOptions = field(default_factory=ModelOptions)
    precision: PrecisionOptions = field(default_factory=PrecisionOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    full: FullOptions = field(default_factory=FullOptions)
    ema: EmaOptions = field(default_factory=EmaOptions)
    text: TextOptions = field(default_factory=TextOptions)
    data: DataOptions = field(default_factory=DataOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)
    run: RunOptions = field(default_factory=RunOptions)
    speed: SpeedOptions = field(default_factory=SpeedOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    export: ExportOptions = field(default_factory=ExportOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    held_out: EvalOptions = field(default_factory=EvalOptions)
    reporting: ReportingOptions = field(default_factory=ReportingOptions)
    publishing: PublishingOptions = field(default_factory=PublishingOptions)


def all_options() -> Iterator[Option]:
    """Every declared option, in the order of the groups."""
    for group in fields(RunConfig):
        assert isinstance(group.type, type)
        yield from options_in(group.name, group.type)
