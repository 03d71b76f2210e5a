"""What a launcher told this process: its number, known before the engine is opened, and what it asks besides."""

import os

from helpers.errors import Problem

# Each by the variable that accelerate's launcher sets for it.
DIVIDING_ENGINES = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}


def rank_of_process() -> int:
    """This process's number, 0 for the first or only one, as every launcher of PyTorch says it."""
    return int(os.environ.get("RANK", "0"))


def compiler_of_accelerate() -> str:
    """What accelerate was told to compile with, by a file of its own or a word to it; `no` where by nobody."""
    return os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()


def dividing_engines() -> list[Problem]:
    """What is wrong where accelerate is asked for an engine under which a process holds a part of the model only.

    A checkpoint, the average and the result would be written of that part alone.
    """
    return [
        Problem(
            option="ACCELERATE_EXTRA_ARGS",
            value="",
            reason=f"accelerate, by these words or by its own file, divides the model by {engine}, which this program"
            " does not do yet",
            fix="take it out of the words, or of the file: each process then holds the whole model."
            " documentation/DISTRIBUTED.md says what makes that fit",
        )
        for variable, engine in DIVIDING_ENGINES.items()
        if os.environ.get(variable, "").lower() in ("true", "1")
    ]
