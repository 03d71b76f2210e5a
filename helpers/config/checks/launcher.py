"""What a launcher told this process: its number, known before the engine is opened, and what it asks besides."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from helpers.config.train_config import RunConfig
from helpers.errors import Problem

# Each by the variable that accelerate's launcher sets for it.
OTHER_ENGINES = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
ZERO_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
ZERO_STAGES = ("1", "2")

DIVISIBLE = ("adamw", "adamw_bf16")
DIVISIBLE_BY_ZERO = ("adamw",)

Refusals = Iterator[tuple[str, object, str, str]]


def rank_of_process() -> int:
    """This process's number, 0 for the first or only one, as every launcher of PyTorch says it."""
    return int(os.environ.get("RANK", "0"))


def accelerate_dynamo_backend() -> str:
    """What accelerate was told to compile with, by a file of its own or a word to it; `no` where by nobody."""
    return os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()


def is_fsdp() -> bool:
    """Whether accelerate was asked for FSDP, under which each process holds a part of the model."""
    return _said("ACCELERATE_USE_FSDP")


def zero_stage() -> int:
    """How far accelerate was asked to divide by DeepSpeed's ZeRO: 0 not at all, 1 the memory, 2 the gradients too."""
    return int(os.environ.get(ZERO_STAGE, "2")) if _said(DEEPSPEED) else 0


@contextmanager
def hide_deepspeed_from_accelerate() -> Iterator[None]:
    """Within it accelerate does not see that DeepSpeed was asked for, which it would drive in its own way."""
    asked = os.environ.pop(DEEPSPEED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[DEEPSPEED] = asked


def check_launcher(config: RunConfig) -> list[Problem]:
    """What is wrong where accelerate is asked to divide the model, or its optimizer, among processes."""
    problems = [
        _problem(
            f"accelerate, by these words or by its own file, asks for {engine}, which this program cannot run under",
            "say distributed_type: FSDP with fsdp_version: 2, as config/accelerate/fsdp2.yaml does, or take it out:"
            " each process then holds the whole model. See documentation/DISTRIBUTED.md",
        )
        for variable, engine in OTHER_ENGINES.items()
        if _said(variable)
    ]
    if is_fsdp():
        problems += _told("FSDP", files=_of_fsdps_file(), settings=_of_settings_with_fsdp(config))
    if _said(DEEPSPEED):
        problems += _told("DeepSpeed", files=_of_deepspeeds_file(), settings=_of_settings_with_deepspeed(config))
    return problems


def _told(engine: str, *, files: Iterator[tuple[str, str, str]], settings: Refusals) -> list[Problem]:
    without = f", or take {engine} out of accelerate's words or file"
    return [
        *(_problem(f"{engine} is asked for with {said}, {why}", fix) for said, why, fix in files),
        *(
            Problem(option=option, value=str(value), reason=f"it does not go with {engine}: {why}", fix=fix + without)
            for option, value, why, fix in settings
        ),
    ]


def _of_fsdps_file() -> Iterator[tuple[str, str, str]]:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        yield "its first version", "which PyTorch is giving up", "say fsdp_version: 2 in the file"
    if _said("FSDP_OFFLOAD_PARAMS"):
        yield "fsdp_offload_params", "which was never tried here", "say false"
    if _said("FSDP_ACTIVATION_CHECKPOINTING"):
        fix = "say false in the file, and USE_GRADIENT_CHECKPOINTING=true"
        yield "fsdp_activation_checkpointing", "which the model itself does", fix


def _of_deepspeeds_file() -> Iterator[tuple[str, str, str]]:
    if find_spec("deepspeed") is None:
        fix = "run .venv/bin/pip install deepspeed"
        yield "no deepspeed in this environment", "as it is a library that this program does not bring along", fix
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        fix = "say zero_stage: 2 in accelerate's file instead, as config/accelerate/deepspeed-zero2.yaml does"
        yield f"a file of its own, {file}", "whose settings config.env says", fix
    elif os.environ.get(ZERO_STAGE, "2") not in ZERO_STAGES:
        fix = "say zero_stage: 2, or FSDP as in config/accelerate/fsdp2.yaml, which divides the weights too"
        yield f"zero_stage: {os.environ[ZERO_STAGE]}", "and only 1 and 2 were tried here", fix
    for name in ("offload_optimizer_device", "offload_param_device"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_{name.upper()}", "none").lower() != "none":
            yield name, "which was never tried here", "say none"
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        fix = "say 1 in the file, and GRADIENT_ACCUMULATION_STEPS in config.env"
        yield "gradient_accumulation_steps", "which config.env says", fix
    if os.environ.get("ACCELERATE_GRADIENT_CLIPPING", "none").lower() != "none":
        yield (
            "gradient_clipping",
            "which config.env says",
            "take it out of the file, and say MAX_GRAD_NORM in config.env",
        )


def _of_settings_with_fsdp(config: RunConfig) -> Refusals:
    """The settings that need a whole weight in one process, or hold on to weights as they were loaded."""
    if config.model.model_type != "full":
        why = "what a LoRA's base needs is saved by quantizing it, not by dividing it"
        yield "model_type", config.model.model_type, why, "say full"
    if config.optimizer.optimizer not in DIVISIBLE:
        yield "optimizer", config.optimizer.optimizer, "it was not tried on parts of weights", _one_of(DIVISIBLE)
    if config.ema.use_ema:
        yield "use_ema", "true", "one process keeps the average of whole weights", "say false"
    yield from _of_settings(config)


def _of_settings_with_deepspeed(config: RunConfig) -> Refusals:
    """The settings that give weights another place in memory, or were not tried."""
    if config.model.model_type != "full":
        why = "a LoRA's optimizer remembers too little to be worth dividing"
        yield "model_type", config.model.model_type, why, "say full"
    if config.optimizer.optimizer not in DIVISIBLE_BY_ZERO:
        why = "it was not tried on parts of weights"
        yield "optimizer", config.optimizer.optimizer, why, _one_of(DIVISIBLE_BY_ZERO)
    if config.precision.base_model_default_dtype == "bf16":
        why = "of such weights it keeps copies in fp32, which no checkpoint would hold"
        yield "base_model_default_dtype", "bf16", why, "say fp32"
    if config.ema.use_ema:
        yield "use_ema", "true", "it was never tried", "say false"
    yield from _of_settings(config)


def _of_settings(config: RunConfig) -> Refusals:
    if config.optimizer.fused_backward:
        yield "fused_backward", "true", "it moves weights before gradients are shared", "say false"
    if config.speed.offload_blocks:
        yield "offload_blocks", config.speed.offload_blocks, "blocks are to stay where it put them", "say 0"
    backend = config.speed.training_dynamo_backend
    if backend != "no":
        yield "training_dynamo_backend", backend, "it was never tried", "say no"


def _one_of(names: tuple[str, ...]) -> str:
    return f"say {' or '.join(names)}"


def _problem(reason: str, fix: str) -> Problem:
    return Problem(option="ACCELERATE_EXTRA_ARGS", value="", reason=reason, fix=fix)


def _said(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
