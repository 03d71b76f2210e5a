"""What is wrong with the options taken together, or with what they point at; single values are checked before."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from helpers.config.checks.paths import Wrong, check_paths, not_writable
from helpers.config.checks.training import check_training
from helpers.config.files.lycoris import read_lycoris
from helpers.config.files.prompt_library import parse_validation_sizes, read_prompts
from helpers.config.files.webhook import read_webhook
from helpers.config.optimizers import LEARNING_RATE_FREE, check_optimizer_settings
from helpers.config.options.output import TRACKERS
from helpers.config.suggestions import did_you_mean
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import Problem

THEIR_LEAST_RATE = 0.01
"""Below this, optimizers that find the rate themselves do not move within a run."""


def check(config: RunConfig, *, unless: Collection[str] = ()) -> list[Problem]:
    """All problems of `config`, but for options named in `unless`, which are known to be wrong already."""
    found = (
        *_length(config),
        *_rates(config),
        *(() if "optimizer" in unless else _optimizer_settings(config)),
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
    return [problem for name, problem in found if name not in unless]


def _problem(name: str, *, value: str, reason: str, fix: str) -> tuple[str, Problem]:
    """A problem of the option `name`, under the name it has in the env file."""
    env = next(option.env for option in all_options() if option.name == name)
    return name, Problem(option=env, value=value, reason=reason, fix=fix)


def _length(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    steps, epochs = config.run.max_train_steps, config.run.num_train_epochs
    if steps and epochs:
        reason = f"MAX_NUM_STEPS={steps} says how long the run is, too"
        yield _problem("num_train_epochs", value=str(epochs), reason=reason, fix="set one of the two to 0")
    if not steps and not epochs:
        reason = "nothing says how long the run is"
        yield _problem("max_train_steps", value="0", reason=reason, fix="say MAX_NUM_STEPS or NUM_EPOCHS")


def _rates(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    rate, optimizer = config.optimizer.learning_rate, config.optimizer.optimizer
    if optimizer in LEARNING_RATE_FREE and rate < THEIR_LEAST_RATE:
        reason = f"{optimizer} finds the rate itself and multiplies it by this, so that nothing would be learned"
        yield _problem("learning_rate", value=f"{rate:g}", reason=reason, fix="say 1.0, or leave it out")


def _optimizer_settings(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    said = config.optimizer
    for value, reason, fix in check_optimizer_settings(said.optimizer, config=said.optimizer_config):
        yield _problem("optimizer_config", value=value, reason=reason, fix=fix)


def _validation(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    said = config.validation
    try:
        parse_validation_sizes(said.validation_resolution)
    except ValueError as error:
        fix = "say 1024x1024, or a comma list such as 1024x1024,1280x768"
        yield _problem("validation_resolution", value=said.validation_resolution, reason=str(error), fix=fix)
    if said.validation_seed and not said.validation_seed.isdecimal():
        fix = "say a whole number from 0 up, or nothing for a new seed each time"
        yield _problem("validation_seed", value=said.validation_seed, reason="it is no whole number", fix=fix)

    if said.user_prompt_library:
        _, problems = read_prompts(Path(said.user_prompt_library).expanduser())
        yield from (("user_prompt_library", problem) for problem in problems)
    try:
        layers = said.skip_layers
    except ValueError:
        reason, fix = "it is no comma list of numbers", "say 7,8,9"
        yield _problem("validation_skip_layers", value=said.validation_skip_layers, reason=reason, fix=fix)
    else:
        if layers and said.validation_guidance <= 1:
            reason, fix = "it goes with guidance, which is off", "say VALIDATION_GUIDANCE=5, or leave it out"
            yield _problem("validation_skip_layers", value=said.validation_skip_layers, reason=reason, fix=fix)


def _reporting(config: RunConfig) -> Iterator[tuple[str, Problem]]:
    said = config.reporting
    if said.logging_dir and (wrong := not_writable(said.folder(config.run.output_dir).absolute())):
        fix = "name a folder that this user may write to"
        yield _problem("logging_dir", value=said.logging_dir, reason=wrong, fix=fix)
    for tracker in said.trackers:
        if tracker not in TRACKERS:
            fix = did_you_mean(tracker, ("none", *TRACKERS), otherwise="say none, wandb, tensorboard, or a comma list")
            yield _problem("report_to", value=said.report_to, reason=f"there is no tracker {tracker}", fix=fix)
    if config.lora.lora_type == "lycoris" and config.lora.lycoris_config:
        adapter, problems = read_lycoris(Path(config.lora.lycoris_config).expanduser())
        yield from (("lycoris_config", problem) for problem in problems)
        level = config.precision.base_model_precision
        if adapter is not None and adapter.has_full and level != "no_change":
            reason = f"its algo full moves the weights themselves, and BASE_MODEL_PRECISION={level} rounds them"
            fix = "say BASE_MODEL_PRECISION=no_change, or lokr, loha or lora in the file"
            yield _problem("lycoris_config", value=config.lora.lycoris_config, reason=reason, fix=fix)
    if said.webhook_config:
        _, problems = read_webhook(Path(said.webhook_config).expanduser())
        yield from (("webhook_config", problem) for problem in problems)


NAME_ON_HUB = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", flags=re.ASCII)


def check_publishing(config: RunConfig) -> Iterator[Wrong]:
    """A repository's name that is missing, or that the hub does not allow."""
    said = config.publishing
    if said.push_to_hub and not said.hub_model_id:
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(config.run.output_dir).name).strip("-") or "my-model"
        yield "hub_model_id", "", "PUSH_TO_HUB has nowhere to upload to", f"say HUB_MODEL_NAME={name} or the like"
    if said.hub_model_id and not _is_allowed(said.hub_model_id):
        reason = "the hub allows letters, digits, `-`, `_` and `.`, 96 at the most, with at most an owner before a `/`"
        yield "hub_model_id", said.hub_model_id, reason, "say HUB_MODEL_NAME=my-model, or owner/my-model"


def _is_allowed(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and not name.endswith(".git") and all(NAME_ON_HUB.fullmatch(part) for part in parts)
