"""Which of a run's processes this one is, known before the engine is opened."""

import os


def rank_of_process() -> int:
    """This process's number, 0 for the first or only one, as every launcher of PyTorch says it."""
    return int(os.environ.get("RANK", "0"))
