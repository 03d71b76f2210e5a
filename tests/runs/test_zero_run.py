"""Full tuning by processes of which each keeps a part of the optimizer's memory: DeepSpeed's ZeRO."""

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.training.optim import optimizer_step as stepping
from tests.runs.harness import SmallRun, copied, draw_set
from tests.runs.ranks import run_ranks
from tests.runs.test_fsdp_run import SETTINGS as DIVIDED
from tests.runs.test_fsdp_run import STEPS, assert_same, fresh_copy, memory, result

pytest.importorskip("deepspeed")

SETTINGS = DIVIDED | {"gradient_accumulation_steps": 2}


def by_zero(rank: int, *, stage: int = 2) -> None:
    """What accelerate's launcher says; each process tells how many numbers it moves."""
    deepspeed: Any = import_module("deepspeed")
    os.environ.update({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)})
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would compile C++ for a minute, for inference
    finish = stepping.ZeroStep.finish

    def told(self: stepping.ZeroStep) -> None:
        finish(self)
        (part,) = (weights for group in self.optimizer.param_groups for weights in group["params"])
        sys.stdout.write(f"moved {part.numel()} numbers\n")

    stepping.ZeroStep.finish = told


def by_stage_1(rank: int) -> None:
    by_zero(rank, stage=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """Two processes, each with the whole optimizer, from nothing to the end."""
    run = SmallRun(tmp_path_factory.mktemp("whole"), tiny_pipeline, settings=SETTINGS)
    draw_set(run.output / "datasets" / "colors")
    said = run_ranks(run)
    assert said.statuses == (0, 0), said.said
    return run


@pytest.fixture(scope="module")
def shared(whole: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """The same with half of the optimizer in each process."""
    run = fresh_copy(whole, tmp_path_factory.mktemp("shared"))
    ended = run_ranks(run, before=by_zero)
    assert ended.statuses == (0, 0), ended.said
    numbers = sum(tensor.numel() for tensor in weights_of(run).values())
    assert all(said.count(f"moved {numbers // 2} numbers") == STEPS for said in ended.said)
    return run


def weights_of(run: SmallRun) -> dict[str, torch.Tensor]:
    return load_file(run.output / f"checkpoint-{STEPS}" / "transformer.safetensors")


def gone_on_with(run: SmallRun, *, stage_1: bool = False) -> SmallRun:
    """`run` once more from its checkpoint before the last."""
    shutil.rmtree(run.output / f"checkpoint-{STEPS}")
    shutil.rmtree(run.output / "pipeline")
    ended = run_ranks(run, before=by_stage_1 if stage_1 else by_zero)
    assert ended.statuses == (0, 0), ended.said
    assert "resumes from" in ended.said[0]
    return run


def assert_close(found: SmallRun, expected: SmallRun) -> None:
    """The same files, and in them the same but for the rounding of sums."""
    tensors = memory(found, STEPS)
    assert tensors.keys() == memory(expected, STEPS).keys()
    for name, tensor in memory(expected, STEPS).items():
        torch.testing.assert_close(tensors[name], tensor, rtol=2e-3, atol=2e-5)
    rest = [run.output / f"checkpoint-{STEPS}" / "optimizer.json" for run in (found, expected)]
    assert json.loads(rest[0].read_text()) == json.loads(rest[1].read_text())


def test_processes_that_share_one_optimizer_learn_what_whole_ones_learn(whole: SmallRun, shared: SmallRun) -> None:
    assert_close(shared, whole)
    images = {each.name for each in (whole.output / "validation_images").rglob("*.png")}
    assert {each.name for each in (shared.output / "validation_images").rglob("*.png")} == images != set()
    assert all(torch.equal(result(shared)[name], tensor) for name, tensor in weights_of(shared).items())


def test_what_was_interrupted_goes_on_exactly(shared: SmallRun, tmp_path: Path) -> None:
    again = gone_on_with(copied(shared, tmp_path))
    assert_same(memory(again, STEPS), memory(shared, STEPS))
    assert_same(result(again), result(shared))


def test_what_whole_optimizers_began_goes_on_by_stage_1(whole: SmallRun, tmp_path: Path) -> None:
    assert_close(gone_on_with(copied(whole, tmp_path), stage_1=True), whole)


def test_a_step_that_would_spoil_the_weights_is_not_taken(whole: SmallRun, tmp_path: Path) -> None:
    run = fresh_copy(whole, tmp_path)
    run.settings = run.settings | {"learning_rate": 1e30, "validation_prompt": "", "num_eval_images": 0}
    ended = run_ranks(run, before=by_zero)
    assert 0 not in ended.statuses
    assert "At optimizer step 2 the loss is NaN or infinite" in ended.said[0]
    assert "checkpoint-1 holds them" in ended.said[0]
    assert (run.output / "checkpoint-1" / "manifest.json").exists()
