"""What a launcher told this process: its number, known before the engine is opened, and what it asks besides."""

import os
from collections.abc import Iterator

from helpers.config.run_config import RunConfig
from helpers.errors import Problem

# Each by the variable that accelerate's launcher sets for it.
OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


DIVISIBLE = ("adamw", "adamw_bf16")


def rank_of_process() -> int:
    """This process's number, 0 for the first or only one, as every launcher of PyTorch says it."""
    return int(os.environ.get("RANK", "0"))


def compiler_of_accelerate() -> str:
    """What accelerate was told to compile with, by a file of its own or a word to it; `no` where by nobody."""
    return os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()


def divides_the_model() -> bool:
    """Whether accelerate was asked for FSDP, under which each process holds a part of the model."""
    return _said("ACCELERATE_USE_FSDP")


def dividing_engines(config: RunConfig) -> list[Problem]:
    """What is wrong where accelerate is asked to divide the model among processes."""
    problems = [
        _problem(
            f"accelerate, by these words or by its own file, asks for {engine}, which this program cannot run under",
            "say distributed_type: FSDP with fsdp_version: 2, as config/accelerate/fsdp2.yaml does, or take it out:"
            " each process then holds the whole model. See documentation/DISTRIBUTED.md",
        )
        for variable, engine in OTHER_ENGINES.items()
        if _said(variable)
    ]
    if divides_the_model():
        problems += [_problem(f"FSDP is asked for with {said}, {why}", fix) for said, why, fix in _of_file()]
        problems += [
            Problem(option=option, value=str(value), reason=f"it does not go with FSDP: {why}", fix=fix)
            for option, value, why, fix in _of_settings(config)
        ]
    return problems


def _of_file() -> Iterator[tuple[str, str, str]]:
    if os.environ.get("FSDP_VERSION", "1") != "2":
        yield "its first version", "which PyTorch is giving up", "say fsdp_version: 2 in the file"
    if _said("FSDP_OFFLOAD_PARAMS"):
        yield "fsdp_offload_params", "which was never tried here", "say false"
    if _said("FSDP_ACTIVATION_CHECKPOINTING"):
        fix = "say false in the file, and USE_GRADIENT_CHECKPOINTING=true"
        yield "fsdp_activation_checkpointing", "which the model itself does", fix


def _of_settings(config: RunConfig) -> Iterator[tuple[str, object, str, str]]:
    """The settings that need a whole weight in one process, or hold on to weights as they were loaded."""
    without = "or take FSDP out of accelerate's words or file"
    if config.model.model_type != "full":
        why = "what a LoRA's base needs is saved by quantising it, not by dividing it"
        yield "model_type", config.model.model_type, why, f"say full, {without}"
    if config.optimizer.optimizer not in DIVISIBLE:
        why = "it was not tried on parts of weights"
        yield "optimizer", config.optimizer.optimizer, why, f"say {' or '.join(DIVISIBLE)}, {without}"
    if config.ema.use_ema:
        yield "use_ema", "true", "one process keeps the average of whole weights", f"say false, {without}"
    if config.optimizer.fused_backward:
        yield "fused_backward", "true", "it moves weights before gradients are shared", f"say false, {without}"
    if config.speed.offload_blocks:
        yield "offload_blocks", config.speed.offload_blocks, "blocks are divided already", f"say 0, {without}"
    backend = config.speed.training_dynamo_backend
    if backend != "no":
        yield "training_dynamo_backend", backend, "it was never tried", f"say no, {without}"


def _problem(reason: str, fix: str) -> Problem:
    return Problem(option="ACCELERATE_EXTRA_ARGS", value="", reason=reason, fix=fix)


def _said(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("true", "1")
