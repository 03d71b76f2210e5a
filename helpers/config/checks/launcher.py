"""What the launcher set for this process: its rank, and the engine, whose settings are checked here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from helpers.config.train_config import RunConfig
from helpers.errors import Problem

# By the variable that accelerate's launcher sets.
OTHER_ENGINES = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
ZERO_STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
ZERO_STAGES = ("1", "2")

FSDP_OPTIMIZERS = ("adamw", "adamw_bf16")
ZERO_OPTIMIZERS = ("adamw",)

Refusals = Iterator[tuple[str, object, str, str]]


def rank_of_process() -> int:
    """This process's rank, 0 for the first or only one, as every PyTorch launcher sets it."""
    return int(os.environ.get("RANK", "0"))


def accelerate_dynamo_backend() -> str:
    """The backend that accelerate's file or arguments set for compiling; `no` if not set."""
    return os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()


def is_fsdp() -> bool:
    """Whether accelerate's file or arguments ask for FSDP, which shards the model across processes."""
    return _is_set("ACCELERATE_USE_FSDP")


def zero_stage() -> int:
    """The stage of DeepSpeed's ZeRO that accelerate sets: 0 none, 1 shards the optimizer state, 2 also gradients."""
    return int(os.environ.get(ZERO_STAGE, "2")) if _is_set(DEEPSPEED) else 0


@contextmanager
def hide_deepspeed_from_accelerate() -> Iterator[None]:
    """A context in which accelerate does not see the request for DeepSpeed, which it would set up in its own way."""
    asked = os.environ.pop(DEEPSPEED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[DEEPSPEED] = asked


def check_launcher(config: RunConfig) -> list[Problem]:
    """Problems with sharding the model or its optimizer across processes, as accelerate's file or arguments ask for."""
    problems = [
        _problem(
            f"accelerate's arguments or its file ask for {engine}, which is not supported",
            "use distributed_type: FSDP with fsdp_version: 2, as config/accelerate/fsdp2.yaml does, or remove it:"
            " each process then holds the whole model. See documentation/DISTRIBUTED.md",
        )
        for variable, engine in OTHER_ENGINES.items()
        if _is_set(variable)
    ]
    if is_fsdp():
        problems += _engine_problems("FSDP", files=_check_fsdp_file(), settings=_check_fsdp_settings(config))
    if _is_set(DEEPSPEED):
        problems += _engine_problems(
            "DeepSpeed", files=_check_deepspeed_file(), settings=_check_deepspeed_settings(config)
        )
    return problems


def _engine_problems(engine: str, *, files: Iterator[tuple[str, str, str]], settings: Refusals) -> list[Problem]:
    without = f", or remove {engine} from accelerate's arguments or file"
    return [
        *(_problem(f"{engine} is set up with {name}, {why}", fix) for name, why, fix in files),
        *(
            Problem(
                option=option, value=str(value), reason=f"it cannot be combined with {engine}: {why}", fix=fix + without
            )
            for option, value, why, fix in settings
        ),
    ]


def _check_fsdp_file() -> Iterator[tuple[str, str, str]]:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        yield "its first version", "which PyTorch has deprecated", "use fsdp_version: 2 in the file"
    if _is_set("FSDP_OFFLOAD_PARAMS"):
        yield "fsdp_offload_params", "which is not supported", "use false"
    if _is_set("FSDP_ACTIVATION_CHECKPOINTING"):
        fix = "use false in the file, and USE_GRADIENT_CHECKPOINTING=true"
        yield "fsdp_activation_checkpointing", "which the model does itself", fix


def _check_deepspeed_file() -> Iterator[tuple[str, str, str]]:
    if find_spec("deepspeed") is None:
        fix = "run .venv/bin/pip install deepspeed"
        yield "no deepspeed in this environment", "which is not among the required packages", fix
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        fix = "use zero_stage: 2 in accelerate's file instead, as config/accelerate/deepspeed-zero2.yaml does"
        yield f"a file of its own, {file}", "and its settings belong in config.env", fix
    elif os.environ.get(ZERO_STAGE, "2") not in ZERO_STAGES:
        fix = "use zero_stage: 2, or FSDP as in config/accelerate/fsdp2.yaml, which also shards the weights"
        yield f"zero_stage: {os.environ[ZERO_STAGE]}", "and only 1 and 2 are supported", fix
    for name in ("offload_optimizer_device", "offload_param_device"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_{name.upper()}", "none").lower() != "none":
            yield name, "which is not supported", "use none"
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        fix = "use 1 in the file, and GRADIENT_ACCUMULATION_STEPS in config.env"
        yield "gradient_accumulation_steps", "which config.env sets", fix
    if os.environ.get("ACCELERATE_GRADIENT_CLIPPING", "none").lower() != "none":
        yield (
            "gradient_clipping",
            "which config.env sets",
            "remove it from the file, and set MAX_GRAD_NORM in config.env",
        )


def _check_fsdp_settings(config: RunConfig) -> Refusals:
    """The settings that need a weight unsharded in one process, or keep references to weights as they were loaded."""
    if config.model.model_type != "full":
        why = "to save memory with a LoRA, quantize the base model; sharding is for full fine-tuning"
        yield "model_type", config.model.model_type, why, "use full"
    if config.optimizer.optimizer not in FSDP_OPTIMIZERS:
        yield (
            "optimizer",
            config.optimizer.optimizer,
            "it is not supported with sharded weights",
            _one_of(FSDP_OPTIMIZERS),
        )
    if config.ema.use_ema:
        yield "use_ema", "true", "the average is kept unsharded by one process", "use false"
    yield from _check_settings(config)


def _check_deepspeed_settings(config: RunConfig) -> Refusals:
    """The settings that move weights in memory, or are not supported."""
    if config.model.model_type != "full":
        why = "a LoRA's optimizer state is too small to be worth sharding"
        yield "model_type", config.model.model_type, why, "use full"
    if config.optimizer.optimizer not in ZERO_OPTIMIZERS:
        why = "it was not tested with sharded weights"
        yield "optimizer", config.optimizer.optimizer, why, _one_of(ZERO_OPTIMIZERS)
    if config.precision.base_model_default_dtype == "bf16":
        why = "it keeps fp32 copies of such weights, which checkpoints would not contain"
        yield "base_model_default_dtype", "bf16", why, "use fp32"
    if config.ema.use_ema:
        yield "use_ema", "true", "it was not tested", "use false"
    yield from _check_settings(config)


def _check_settings(config: RunConfig) -> Refusals:
    if config.optimizer.fused_backward:
        yield "fused_backward", "true", "it updates weights before gradients are averaged across processes", "use false"
    if config.speed.offload_blocks:
        yield "offload_blocks", config.speed.offload_blocks, "the blocks must stay where it placed them", "use 0"
    backend = config.speed.training_dynamo_backend
    if backend != "no":
        yield "training_dynamo_backend", backend, "it was not tested", "use no"


def _one_of(names: tuple[str, ...]) -> str:
    return f"use {' or '.join(names)}"


def _problem(reason: str, fix: str) -> Problem:
    return Problem(option="ACCELERATE_EXTRA_ARGS", value="", reason=reason, fix=fix)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
