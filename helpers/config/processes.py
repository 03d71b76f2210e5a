"""What a launcher told this process: its number, known before the engine is opened, and what it asks besides."""

import os


def rank_of_process() -> int:
    """This process's number, 0 for the first or only one, as every launcher of PyTorch says it."""
    return int(os.environ.get("RANK", "0"))


def compiler_of_accelerate() -> str:
    """What accelerate was told to compile with, by a file of its own or a word to it; `no` where by nobody."""
    return os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
