"""Full tuning of a model that is divided among processes by FSDP2, as accelerate's own file asks for it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.harness import SmallRun, copied, draw_set
from tests.runs.ranks import Ended, run_ranks

STEPS = 4
# What `accelerate launch` says to each process; by itself it divides nothing on a machine without GPUs.
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
SETTINGS = {
    "model_type": "full",
    "train_batch_size": 1,
    "max_train_steps": STEPS,
    "learning_rate": 0.003,
    "max_grad_norm": 0.05,
    "caption_dropout_probability": 0.3,
    "gradient_checkpointing": True,
    "validation_prompt": "red square",
    "num_eval_images": 2,
}


def by_fsdp(rank: int) -> None:
    os.environ.update(FSDP2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """Two processes, each with the whole model, from nothing to the end."""
    run = SmallRun(tmp_path_factory.mktemp("whole"), tiny_pipeline, settings=SETTINGS)
    draw_set(run.output / "datasets" / "colors")
    said = run_ranks(run)
    assert said.statuses == (0, 0), said.said
    return run


def fresh_copy(run: SmallRun, folder: Path) -> SmallRun:
    """The run before its first step, with its caches."""
    new = copied(run, folder)
    for made in ("logs", "pipeline", "validation_images", *(each.name for each in new.output.glob("checkpoint-*"))):
        shutil.rmtree(new.output / made)
    return new


@pytest.fixture(scope="module")
def divided(whole: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallRun, Ended]:
    """The same with half of the model in each process."""
    run = fresh_copy(whole, tmp_path_factory.mktemp("divided"))
    return run, run_ranks(run, before=by_fsdp)


def memory(run: SmallRun, step: int) -> dict[str, torch.Tensor]:
    folder = run.output / f"checkpoint-{step}"
    return load_file(folder / "transformer.safetensors") | load_file(folder / "optimizer.safetensors")


def result(run: SmallRun) -> dict[str, torch.Tensor]:
    return load_file(run.output / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


def assert_same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_a_divided_model_learns_what_whole_ones_learn(whole: SmallRun, divided: tuple[SmallRun, Ended]) -> None:
    """And leaves the same files: weights, the optimizer's memory, a pipeline, images, the validation loss."""
    run, ended = divided
    assert ended.statuses == (0, 0), ended.said
    expected = memory(whole, STEPS)
    found = memory(run, STEPS)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-5)
    base = load_file(run.pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    last = load_file(run.output / f"checkpoint-{STEPS}" / "transformer.safetensors")
    assert result(run).keys() == base.keys()
    assert all(torch.equal(result(run)[name], tensor) for name, tensor in last.items())
    for folder in ("validation_images", "logs"):
        names = {each.relative_to(whole.output).as_posix() for each in (whole.output / folder).rglob("*.png")}
        assert {each.relative_to(run.output).as_posix() for each in (run.output / folder).rglob("*.png")} == names
    assert (run.output / "logs" / "held_out.jsonl").exists()


def gone_on_with(run: SmallRun, folder: Path) -> SmallRun:
    """The run once more from its checkpoint before the last."""
    again = copied(run, folder)
    shutil.rmtree(again.output / f"checkpoint-{STEPS}")
    shutil.rmtree(again.output / "pipeline")
    ended = run_ranks(again, before=by_fsdp)
    assert ended.statuses == (0, 0), ended.said
    assert "resumes from" in ended.said[0]
    return again


def test_what_was_interrupted_goes_on_exactly(divided: tuple[SmallRun, Ended], tmp_path: Path) -> None:
    again = gone_on_with(divided[0], tmp_path)
    assert_same(memory(again, STEPS), memory(divided[0], STEPS))
    assert_same(result(again), result(divided[0]))


def test_so_does_pure_bf16_which_rounds_at_random(whole: SmallRun, tmp_path: Path) -> None:
    run = fresh_copy(whole, tmp_path / "straight")
    run.settings = run.settings | {"optimizer": "adamw_bf16", "validation_prompt": "", "num_eval_images": 0}
    ended = run_ranks(run, before=by_fsdp)
    assert ended.statuses == (0, 0), ended.said
    again = gone_on_with(run, tmp_path / "again")
    assert {tensor.dtype for tensor in result(again).values()} == {torch.bfloat16}
    assert_same(memory(again, STEPS), memory(run, STEPS))
    steps = [load_file(run.output / f"checkpoint-{step}" / "transformer.safetensors") for step in (2, STEPS)]
    assert not all(torch.equal(steps[0][name], tensor) for name, tensor in steps[1].items())


def test_its_pipeline_opens_in_diffusers(divided: tuple[SmallRun, Ended]) -> None:
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(divided[0].output / "pipeline")
    assert_same(pipeline.transformer.state_dict(), result(divided[0]))
