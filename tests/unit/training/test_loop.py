"""The loop takes the steps it promises, exactly those, whatever interrupts it."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from helpers.config.optimizers import KINDS
from helpers.config.options.training import OptimizerOptions
from helpers.dataloader.types import Position, TrainBatch
from helpers.errors import TrainingError
from helpers.models.flow_matching import noisy_latents, velocity_target
from helpers.reporting.events import CheckpointSaved, StepFinished, TrainingStarted
from helpers.reporting.reporter import Reporter
from helpers.training.loop import take_step, train
from helpers.training.optim.optimizer_step import StandardStep
from helpers.training.optim.optimizers import make_optimizer
from helpers.training.plan import StepInfo, TrainState
from helpers.training.signals import StopSignal
from tests.unit.training.small_run import (
    Events,
    SmallDenoiser,
    SmallRun,
    batch_at,
    batches_from,
    small_learner,
    small_order,
    small_plan,
)


class NoDuties:
    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        """Nothing is saved."""

    def on_step_end(self, step: int) -> None:
        """Nothing to average."""

    def validate(self, info: StepInfo) -> None:
        """Nothing is drawn."""


def train_small(denoiser: SmallDenoiser, *, batches: Iterator[TrainBatch], steps: int, accumulation: int) -> Events:
    events = Events()
    step_context = small_learner(denoiser)
    train(
        step_context,
        optimizer=make_optimizer(OptimizerOptions(learning_rate=0.1), weights=step_context.weights, seed=0),
        state=TrainState(),
        batches=batches,
        plan=small_plan(small_order(), steps=steps, accumulation=accumulation, learning_rate=0.1),
        hooks=NoDuties(),
        stop=StopSignal(),
        reporter=Reporter([events]),
    )
    return events


def test_steps_are_those_of_a_plain_loop() -> None:
    order = small_order()
    denoiser, plain = SmallDenoiser(), SmallDenoiser()
    events = train_small(denoiser, batches=batches_from(Position(), order=order), steps=4, accumulation=3)

    optimizer = torch.optim.AdamW([plain.lora_a, plain.lora_b], lr=0.1, weight_decay=0.01, fused=True)
    batches = batches_from(Position(), order=order)
    for step in range(4):
        losses = []
        for _ in range(3):
            batch = next(batches)
            prediction = plain(noisy_latents(batch.latents, batch.noise, batch.sigmas))
            loss = ((prediction - velocity_target(batch.latents, batch.noise)) ** 2).mean()
            (loss / 3).backward()
            losses.append(loss.item())
        norm = clip_grad_norm_([plain.lora_a, plain.lora_b], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        told = [event for event in events if isinstance(event, StepFinished)][step]
        assert told.loss == pytest.approx(sum(losses) / 3)
        assert told.gradient_norm == pytest.approx(norm.item())
    for name, weight in plain.weights().items():
        torch.testing.assert_close(denoiser.weights()[name], weight)


def test_events_tell_of_each_step() -> None:
    order = small_order()
    events = train_small(SmallDenoiser(), batches=batches_from(Position(), order=order), steps=3, accumulation=2)
    assert [event.step for event in events if isinstance(event, StepFinished)] == [1, 2, 3]
    # 5 images in batches of 2: 3 batches in the first epoch, 2 in the second.
    assert [event.epoch for event in events if isinstance(event, StepFinished)] == [0, 1, 2]
    for told in (event for event in events if isinstance(event, StepFinished)):
        assert sum(part.samples for part in told.by_sigma) == told.images == 4
        assert sum(part.samples * part.loss for part in told.by_sigma) / 4 == pytest.approx(told.loss)
        assert told.seconds > 0
        assert told.memory.peak_bytes > 1_000_000
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    assert (started.first_step, started.total_steps, started.images_per_step) == (0, 3, 4)
    assert started.steps_per_epoch == pytest.approx(5 / 4)


def test_a_nan_loss_ends_the_run_before_the_weights_change() -> None:
    denoiser = SmallDenoiser()
    before = {name: weight.clone() for name, weight in denoiser.weights().items()}

    def batches() -> Iterator[TrainBatch]:
        yield batch_at(Position(0, 0))
        yield batch_at(Position(0, 1), spoilt=True)
        yield batch_at(Position(0, 2))

    with pytest.raises(TrainingError) as error:
        train_small(denoiser, batches=batches(), steps=1, accumulation=3)
    assert "optimizer step 1" in str(error.value)
    assert f"a: 0-1-0.png, at σ = {batch_at(Position(0, 1)).sigmas[0]:.3f}" in str(error.value)
    assert "a: 0-0-0.png" not in str(error.value) and "a: 0-2-0.png" not in str(error.value)
    for name, weight in denoiser.weights().items():
        assert torch.equal(weight, before[name])


def test_an_infinite_gradient_ends_the_run_before_the_weights_change() -> None:
    denoiser = SmallDenoiser()
    with torch.no_grad():
        denoiser.lora_a.mul_(1e30)  # the loss stays finite, the square of B's gradient does not
    with pytest.raises(TrainingError, match=r"gradient norm[\s\S]*a: 0-0-1\.png"):
        train_small(denoiser, batches=iter([batch_at(Position())]), steps=1, accumulation=1)
    assert not denoiser.lora_b.any()


def test_the_weights_before_a_nan_loss_are_saved_and_training_resumes_exactly(tmp_path: Path) -> None:
    straight = SmallRun(output=tmp_path / "straight", steps=6, keep=1)
    expected = straight.run(StopSignal(), Events())
    broken = SmallRun(output=tmp_path / "broken", steps=6, keep=1, spoilt_batch="2-1")
    with pytest.raises(TrainingError, match=r"step 4 the loss[\s\S]*a: 2-1-0\.png[\s\S]*saved in checkpoint-3"):
        broken.run(StopSignal(), Events())
    # The older one is kept, in case the loss was already rising at the last one.
    assert sorted(folder.name for folder in broken.output.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    found = SmallRun(output=tmp_path / "broken", steps=6, keep=1).run(StopSignal(), Events())
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize(
    ("scale", "what", "stand"),
    [
        (math.nan, "the loss", ["checkpoint-2", "checkpoint-3"]),
        # Found in the middle of the backward pass, when weights have moved: what the last checkpoint holds is right.
        (1e12, "the gradient norm", ["checkpoint-2"]),
    ],
)
def test_weights_that_move_during_the_backward_pass_are_saved_as_they_were_or_not_at_all(
    scale: float, what: str, stand: list[str], tmp_path: Path
) -> None:
    run = SmallRun(output=tmp_path, steps=6, accumulation=1, fused_backward=True)
    expected = run.run(StopSignal(), Events())
    for later in (4, 6):
        shutil.rmtree(tmp_path / f"checkpoint-{later}")
    broken = dataclasses.replace(run, spoilt_batch="1-0", spoilt_by=scale)
    with pytest.raises(TrainingError, match=rf"step 4 {what}[\s\S]*a: 1-0-0\.png") as error:
        broken.run(StopSignal(), Events())
    assert ("already damaged" in str(error.value)) == (what != "the loss")
    assert sorted(folder.name for folder in tmp_path.iterdir()) == stand
    found = run.run(StopSignal(), Events())
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_nan_weights_are_not_saved(tmp_path: Path) -> None:
    """A step that makes them NaN cannot be foreseen; earlier checkpoints are kept."""
    run = SmallRun(output=tmp_path, steps=6, save_every=4, learning_rate=1e39)
    with pytest.raises(TrainingError, match=r"step 2 the loss[\s\S]*already damaged"):
        run.run(StopSignal(), Events())
    assert not any(tmp_path.iterdir())


def test_gradients_are_left_as_they_are_without_a_limit() -> None:
    step_context = small_learner(SmallDenoiser())
    step_context.weights["transformer.a.lora_B.weight"].grad = torch.full((16, 2), 3.0)
    norm = step_context.runtime.clip_gradients(step_context.weights.values(), max_norm=0.0)
    assert norm.item() == pytest.approx(3 * math.sqrt(32))
    assert step_context.weights["transformer.a.lora_B.weight"].grad.eq(3.0).all()


def test_the_position_moves_with_every_batch() -> None:
    order = small_order()
    step_context = small_learner(SmallDenoiser())
    state = TrainState()
    optimizer = make_optimizer(OptimizerOptions(), weights=step_context.weights, seed=0)
    take_step(
        step_context,
        stepping=StandardStep(
            step_context.runtime, weights=step_context.weights, optimizer=optimizer, max_grad_norm=1.0
        ),
        state=state,
        batches=batches_from(state.position, order=order),
        plan=small_plan(order, steps=9, accumulation=4),
        seeded=False,
    )
    assert (state.step, state.position) == (1, Position(1, 1))


@pytest.mark.parametrize(
    ("optimizer", "dropout"), [("adamw", 0.5), *((name, 0.0) for name, kind in KINDS.items() if kind.is_installed)]
)
def test_a_continued_run_is_the_run_that_was_not_interrupted(tmp_path: Path, optimizer: str, dropout: float) -> None:
    straight = SmallRun(output=tmp_path / "straight", steps=6, optimizer=optimizer, dropout=dropout)
    expected = straight.run(StopSignal(), Events())

    class StopAfterStep(Events):
        def handle(self, event: object) -> None:
            super().handle(event)  # type: ignore[arg-type]
            if isinstance(event, StepFinished) and event.step == 3:
                stop._signal_number = 15

    stop = StopSignal()
    broken = SmallRun(output=tmp_path / "broken", steps=6, optimizer=optimizer, dropout=dropout)
    events = StopAfterStep()
    broken.run(stop, events)
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [2, 3]
    torch.manual_seed(999)  # nothing may depend on what else drew numbers
    found = broken.run(StopSignal(), Events())
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight)


def test_dropout_has_an_effect_that_does_not_depend_on_what_else_is_drawn(tmp_path: Path) -> None:
    def final(dropout: float, name: str) -> torch.Tensor:
        run = SmallRun(output=tmp_path / name, steps=2, dropout=dropout)
        return run.run(StopSignal(), Events())["transformer.a.lora_B.weight"]

    without, first = final(0.0, "without"), final(0.5, "first")
    torch.manual_seed(7)
    assert torch.equal(final(0.5, "second"), first)
    assert not torch.equal(without, first)


def test_a_finished_run_takes_no_further_step(tmp_path: Path) -> None:
    run = SmallRun(output=tmp_path, steps=2)
    expected = run.run(StopSignal(), Events())
    events = Events()
    again = run.run(StopSignal(), events)
    assert not [event for event in events if isinstance(event, StepFinished | CheckpointSaved)]
    assert all(torch.equal(again[name], weight) for name, weight in expected.items())
