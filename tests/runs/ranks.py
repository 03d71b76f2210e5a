"""Runs of several processes on this machine, each forked from one process that has imported everything once."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import accelerate
import diffusers.models.transformers.transformer_sd3
import peft
import torch
import transformers.models.clip.modeling_clip
import transformers.models.t5.modeling_t5

import train
from helpers.training import run as chapters
from tests.runs.harness import SmallRun

IMPORTED = (accelerate, chapters, diffusers, peft, torch, transformers)
PATIENCE_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the processes of a run ended: exit statuses, and what each said."""

    statuses: tuple[int | None, ...]
    said: tuple[str, ...]


def start_ranks(
    run: SmallRun, *, ranks: int = 2, before: Callable[[int], None] | None = None, **more: Any
) -> list[BaseProcess]:
    """The run in so many processes. before: called in each of them, with its number."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.ranks"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        arguments = (run.arguments(**more), variables, said_file(run, rank), before)
        processes.append(context.Process(target=one_rank, args=arguments))
        processes[-1].start()
    return processes


def ended(run: SmallRun, processes: list[BaseProcess]) -> Ended:
    """Wait for them, and end those that hang."""
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
    return Ended(
        statuses=tuple(process.exitcode for process in processes),
        said=tuple(said_file(run, rank).read_text() for rank in range(len(processes))),
    )


def run_ranks(run: SmallRun, **more: Any) -> Ended:
    """`start_ranks` and `ended`."""
    return ended(run, start_ranks(run, **more))


def said_file(run: SmallRun, rank: int) -> Path:
    return run.folder / f"rank-{rank}.txt"


def one_rank(arguments: list[str], variables: dict[str, Any], said: Path, before: Callable[[int], None] | None) -> None:
    os.environ.update({name: str(value) for name, value in variables.items()})
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if before is not None:
        before(variables["RANK"])
    sys.exit(train.main(arguments))
