"""Checks of options that depend on each other or on files; single values are checked when they are parsed."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from helpers.config.checks.paths import Wrong, check_paths, not_writable
from helpers.config.checks.training import check_training
from helpers.config.files.lycoris import read_lycoris
from helpers.config.files.prompt_library import parse_validation_sizes, read_prompts
from helpers.config.files.webhook import read_webhook
from helpers.config.optimizers import LEARNING_RATE_FREE, check_optimizer_settings
from helpers.config.option import MAX_SEED
from helpers.config.options.output import TRACKERS
from helpers.config.suggestions import did_you_mean
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import Problem

MIN_RATE_FREE_LR = 0.01
"""Below this, optimizers that find the learning rate themselves hardly change the weights within a run."""


def check(config: RunConfig, *, skip: Collection[str] = ()) -> list[Problem]:
    """All problems of `config`, except those of options named in `skip`, which were already reported."""
    found = (
        *_length(config),
        *_rates(config),
        *(() if "optimizer" in skip else _optimizer_settings(config)),
        *_validation(config),
        *_reporting(config),
        *(
            _problem(name, value=value, reason=reason, fix=fix)
            for name, value, reason, fix in (
                *check_training(config),
                *check_paths(config),
                *check_publishing(config),
            )
        ),
    )
    return [problem for name, problem in found if name not in skip]


def _problem(name: str, *, value: str, reason: str, fix: str) -> tuple[str, Problem]:
    """A problem of the option `name`, reported under its name in the env file."""
    env = next(option.env for option in all_options() if option.name == name)
    return name, Problem(option=env, value=value, reason=reason, fix=fix)


def _length(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    steps, epochs = config.run.max_train_steps, config.run.num_train_epochs
    if steps and epochs:
        reason = f"MAX_NUM_STEPS={steps} also sets the length of the run"
        yield _problem("num_train_epochs", value=str(epochs), reason=reason, fix="set one of the two to 0")
    if not steps and not epochs:
        reason = "the length of the run is not set"
        yield _problem("max_train_steps", value="0", reason=reason, fix="set MAX_NUM_STEPS or NUM_EPOCHS")


def _rates(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    rate, optimizer = config.optimizer.learning_rate, config.optimizer.optimizer
    if optimizer in LEARNING_RATE_FREE and rate < MIN_RATE_FREE_LR:
        reason = f"{optimizer} finds the rate itself and multiplies it by this, so nothing would be learned"
        yield _problem("learning_rate", value=f"{rate:g}", reason=reason, fix="use 1.0, or leave it out")


def _optimizer_settings(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    options = config.optimizer
    for value, reason, fix in check_optimizer_settings(options.optimizer, config=options.optimizer_config):
        yield _problem("optimizer_config", value=value, reason=reason, fix=fix)


def _validation(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    options = config.validation
    try:
        parse_validation_sizes(options.validation_resolution)
    except ValueError as error:
        fix = "use 1024x1024, or a comma-separated list such as 1024x1024,1280x768"
        yield _problem("validation_resolution", value=options.validation_resolution, reason=str(error), fix=fix)
    if (seed := options.validation_seed) and not (seed.isdecimal() and len(seed) < 20 and int(seed) <= MAX_SEED):
        fix = "use that, or leave it empty for a new seed each time"
        yield _problem("validation_seed", value=seed, reason=f"it is not an integer from 0 to {MAX_SEED}", fix=fix)

    if options.user_prompt_library:
        _, problems = read_prompts(Path(options.user_prompt_library).expanduser())
        yield from (("user_prompt_library", problem) for problem in problems)
    try:
        layers = options.skip_layers
    except ValueError:
        reason, fix = "it is not a comma-separated list of numbers", "use 7,8,9"
        yield _problem("validation_skip_layers", value=options.validation_skip_layers, reason=reason, fix=fix)
    else:
        if layers and options.validation_guidance <= 1:
            reason, fix = "it needs guidance, which is off", "set VALIDATION_GUIDANCE=5, or leave it out"
            yield _problem("validation_skip_layers", value=options.validation_skip_layers, reason=reason, fix=fix)


def _reporting(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    options = config.reporting
    if options.logging_dir and (wrong := not_writable(options.folder(config.run.output_dir).absolute())):
        fix = "name a folder that this user may write to"
        yield _problem("logging_dir", value=options.logging_dir, reason=wrong, fix=fix)
    for tracker in options.trackers:
        if tracker not in TRACKERS:
            fix = did_you_mean(tracker, ("none", *TRACKERS), otherwise="use none, wandb, tensorboard, or both")
            yield _problem("report_to", value=options.report_to, reason=f"there is no tracker {tracker}", fix=fix)
    if config.lora.lora_type == "lycoris" and config.lora.lycoris_config:
        adapter, problems = read_lycoris(Path(config.lora.lycoris_config).expanduser())
        yield from (("lycoris_config", problem) for problem in problems)
        level = config.precision.base_model_precision
        if adapter is not None and adapter.has_full and level != "no_change":
            reason = f"its algo full trains the weights themselves, and BASE_MODEL_PRECISION={level} rounds them"
            fix = "set BASE_MODEL_PRECISION=no_change, or lokr, loha or lora in the file"
            yield _problem("lycoris_config", value=config.lora.lycoris_config, reason=reason, fix=fix)
    if options.webhook_config:
        _, problems = read_webhook(Path(options.webhook_config).expanduser())
        yield from (("webhook_config", problem) for problem in problems)


NAME_ON_HUB = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", flags=re.ASCII)


def check_publishing(config: RunConfig) -> Iterator[Wrong]:
    """The name of the repository on the hub: missing, or not allowed by the hub."""
    options = config.publishing
    if options.push_to_hub and not options.hub_model_id:
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(config.run.output_dir).name).strip("-") or "my-model"
        yield "hub_model_id", "", "PUSH_TO_HUB needs the name of a repository", f"set HUB_MODEL_NAME={name} or similar"
    if options.hub_model_id and not _is_allowed(options.hub_model_id):
        reason = "the hub allows letters, digits, `-`, `_` and `.`, at most 96 of them, after an optional `owner/`"
        yield "hub_model_id", options.hub_model_id, reason, "set HUB_MODEL_NAME=my-model, or owner/my-model"


def _is_allowed(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and not name.endswith(".git") and all(NAME_ON_HUB.fullmatch(part) for part in parts)
