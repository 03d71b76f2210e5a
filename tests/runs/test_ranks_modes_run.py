"""Several processes that train more than a plain LoRA: text encoders, against a prior, with an average kept."""

import shutil
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.dataloader.types import TrainBatch
from helpers.reporting.events import StepFinished
from helpers.training import loop
from helpers.training.step import StepContext
from tests.runs.harness import SmallRun, copied, draw, draw_set, image_dataset, same
from tests.runs.ranks import run_ranks

STEPS = 4
SETTINGS = {
    "train_text_encoder": True,
    "text_encoder_lr": 0.004,
    "train_batch_size": 1,
    "max_train_steps": STEPS,
    "checkpointing_steps": 1,
    "caption_dropout_probability": 0.3,
    "optimizer": "adamw_schedulefree",
}
PRIOR = image_dataset(
    id="prior", instance_data_dir="datasets/prior", cache_dir_vae="cache/prior", is_regularisation_data=True
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """A run of two processes from nothing to its end."""
    folder = tmp_path_factory.mktemp("two")
    run = SmallRun(folder, tiny_pipeline, settings=SETTINGS, datasets=[image_dataset(), PRIOR])
    draw_set(run.output / "datasets" / "colors")
    for name in ("purple", "black", "white"):
        draw(run.output / "datasets/prior" / f"{name} thing.png", color=(90, 90, 90), size=(80, 80))
    ended = run_ranks(run, before=partial(write_weights_down, folder=folder))
    assert ended.statuses == (0, 0), ended.said
    return run


def write_weights_down(rank: int, *, folder: Path) -> None:
    """Have a process leave a hash of its weights after each step."""

    def taken(step_context: StepContext, **named: Any) -> StepFinished:
        step = take_step(step_context, **named)
        held = b"".join(weight.detach().view(torch.uint8).numpy().tobytes() for weight in step_context.weights.values())
        with (folder / f"weights-{rank}.txt").open("a") as file:
            file.write(f"{step.step} {sha256(held).hexdigest()}\n")
        return step

    take_step, loop.take_step = loop.take_step, taken


def weights_of_all_steps(folder: Path, rank: int) -> list[str]:
    return (folder / f"weights-{rank}.txt").read_text().splitlines()


def test_both_hold_the_same_weights_after_each_step(two: SmallRun) -> None:
    assert len(weights_of_all_steps(two.folder, 0)) == STEPS
    assert weights_of_all_steps(two.folder, 0) == weights_of_all_steps(two.folder, 1)


def test_both_round_the_weights_of_a_whole_model_alike(two: SmallRun, tmp_path: Path) -> None:
    run = SmallRun(tmp_path, two.pipeline, settings={"train_batch_size": 1, "max_train_steps": 2})
    shutil.copytree(two.output / "datasets", run.output / "datasets")
    more = {"model_type": "full", "optimizer": "adamw_bf16"}
    ended = run_ranks(run, before=partial(write_weights_down, folder=tmp_path), **more)
    assert ended.statuses == (0, 0), ended.said
    first, second = (weights_of_all_steps(tmp_path, rank) for rank in (0, 1))
    assert first == second and len(set(first)) == 2


def at_step(step: int, run: SmallRun, folder: Path) -> SmallRun:
    """The run as it was when it was interrupted after its checkpoint at `step`."""
    cut = copied(run, folder)
    cut.datasets = run.datasets
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(cut.output / f"checkpoint-{later}")
    (cut.output / "pytorch_lora_weights.safetensors").unlink()
    return cut


def test_two_learn_what_one_with_twice_the_batch_learns(two: SmallRun, tmp_path: Path) -> None:
    """Every gradient is shared, the text encoders' too."""
    one = SmallRun(tmp_path, two.pipeline, settings=two.settings | {"train_batch_size": 2}, datasets=two.datasets)
    for part in ("datasets", "cache"):
        shutil.copytree(two.output / part, one.output / part)
    assert one.start() == 0
    found = two.remembered(STEPS)
    for name, tensor in one.remembered(STEPS).items():
        torch.testing.assert_close(found[name], tensor, rtol=2e-3, atol=2e-5, msg=lambda said, name=name: name + said)
    for prefix in ("transformer.", "text_encoder.", "text_encoder_2."):
        assert any(tensor.any() for name, tensor in two.weights().items() if name.startswith(prefix) and "_B" in name)


def spoil_a_batch(rank: int, *, told: Path) -> None:
    """Have the second process meet NaN latents in the last batch of its second step."""
    from helpers.dataloader.loader import BatchBuilder

    make = BatchBuilder.batch
    made: list[TrainBatch] = []

    def batch(source: BatchBuilder, position: object) -> TrainBatch:
        made.append(make(source, position))  # type: ignore[arg-type]
        if len(made) == 4:
            made[-1].latents.fill_(torch.nan)
            told.write_text("\n".join(made[-1].paths))
        return made[-1]

    if rank == 1:
        BatchBuilder.batch = batch  # type: ignore[method-assign,assignment]


def test_a_loss_that_is_no_number_ends_all_with_what_was_before_it_and_they_go_on_exactly(
    two: SmallRun, tmp_path: Path
) -> None:
    run = at_step(1, two, tmp_path / "run")
    failed = run_ranks(run, before=partial(spoil_a_batch, told=tmp_path / "told"), checkpointing_steps=STEPS)
    assert failed.statuses == (1, 1)
    assert failed.said[1] == ""
    named = [line for line in failed.said[0].splitlines() if ", at σ = " in line]
    assert [line.partition(",")[0].strip() for line in named] == (tmp_path / "told").read_text().splitlines()
    assert "At optimizer step 3 the loss is NaN or infinite" in failed.said[0]
    assert run.saved_steps() == [1, 2], "what was learned before is saved"
    assert same(run.remembered(2), two.remembered(2))

    again = run_ranks(run)
    assert again.statuses == (0, 0), again.said
    assert same(run.remembered(STEPS), two.remembered(STEPS))
    assert same(run.weights(), two.weights())
