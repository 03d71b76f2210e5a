"""The training loop: a fixed order of work for each optimizer step, and one wait for the device."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from helpers.dataloader.types import TrainBatch
from helpers.reporting.events import StepFinished, TrainingStarted
from helpers.reporting.progress import StepTimer
from helpers.reporting.reporter import Reporter
from helpers.training.nan_guard import check_finite, checkpoint_on_failure
from helpers.training.noise_levels import losses_by_sigma, sums_by_sigma
from helpers.training.optim.optimizer_step import OptimizerStep, make_optimizer_step
from helpers.training.plan import LoopPlan, StepInfo, TrainState
from helpers.training.signals import StopSignal
from helpers.training.step import StepContext, draws_random_numbers, forward_backward


class TrainingHooks(Protocol):
    """What the loop calls between steps."""

    def on_step_end(self, step: int) -> None:
        """Called after optimizer step `step`, from 1."""
        ...

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        """Write a checkpoint on the first rank, and delete old ones unless `keep_all`."""
        ...

    def validate(self, info: StepInfo) -> None:
        """Run the evaluators that are due, without effect on training; at the start only for missing results."""
        ...


def train(
    context: StepContext,
    *,
    optimizer: Optimizer,
    state: TrainState,
    batches: Iterator[TrainBatch],
    plan: LoopPlan,
    hooks: TrainingHooks,
    stop: StopSignal,
    reporter: Reporter,
) -> None:
    """Take the steps from `state.step` to `plan.total_steps`, or until `stop`; the last step is always saved.

    batches: of this rank, from `state.position` on. Raises TrainingError before NaN reaches the weights.
    """
    reporter.handle(
        TrainingStarted(
            first_step=state.step,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.steps_per_epoch,
            images_per_step=plan.images_per_step,
        )
    )
    saved_step = state.step
    timer = StepTimer()
    steps = make_optimizer_step(
        context.runtime,
        weights=context.weights,
        optimizer=optimizer,
        max_grad_norm=plan.max_grad_norm,
        fused_backward=plan.fused_backward,
    )
    with stop.deferred(), steps as stepping:
        hooks.validate(StepInfo(step=state.step, is_begin=True, is_end=state.step >= plan.total_steps))
        context.denoiser.train()
        seeded = draws_random_numbers(context.denoiser)
        while state.step < plan.total_steps and not context.runtime.on_any_rank(stop.requested):
            timer.begin()
            epoch = state.position.epoch
            with checkpoint_on_failure(context, stepping=stepping, state=state, saved_step=saved_step, save=hooks.save):
                taken = take_step(context, stepping=stepping, state=state, batches=batches, plan=plan, seeded=seeded)
            reporter.handle(timer.measured(taken))
            hooks.on_step_end(state.step)
            is_last = state.step == plan.total_steps
            if is_last or state.step % plan.checkpoint_every == 0:
                hooks.save(state)
                saved_step = state.step
            hooks.validate(StepInfo(step=state.step, epochs=range(epoch + 1, state.position.epoch + 1), is_end=is_last))
        if saved_step != state.step:
            hooks.save(state)


def take_step(
    context: StepContext,
    *,
    stepping: OptimizerStep,
    state: TrainState,
    batches: Iterator[TrainBatch],
    plan: LoopPlan,
    seeded: bool,
) -> StepFinished:
    """Take one optimizer step and advance `state`; raises NonFiniteStep before NaN reaches the weights."""
    losses: list[Tensor] = []
    sigmas: list[Tensor] = []
    images: list[str] = []
    position = state.position
    rate = plan.learning_rate(state.step)
    stepping.begin(rate)
    for left in reversed(range(plan.accumulation)):
        batch = next(batches)
        with context.runtime.no_sync(context.denoiser) if left else nullcontext():
            share = 1 / plan.accumulation
            losses.append(forward_backward(context, batch, share=share, seeded=seeded, backward=stepping.backward))
        sigmas.append(batch.sigmas)
        images.extend(batch.paths)
        position = batch.position
        state.position = plan.next_position(position)

    all_losses = torch.cat(losses)
    norm = stepping.gradient_norm()
    by_sigma = sums_by_sigma(all_losses, torch.cat(sigmas), edges=context.sigma_edges).flatten()
    shared = context.runtime.mean_over_ranks(torch.cat([all_losses.mean().view(1), by_sigma]))
    gradient_norm, loss, *rows = torch.cat([norm.view(1), shared]).tolist()  # the one point that waits for the device
    figures = {"loss": loss, "gradient_norm": gradient_norm}
    check_finite(context.runtime, **figures, losses=losses, sigmas=sigmas, images=images)

    stepping.finish()
    state.step += 1
    return StepFinished(
        step=state.step,
        epoch=position.epoch,
        loss=loss,
        learning_rate=rate,
        gradient_norm=gradient_norm,
        images=plan.images_per_step,
        by_sigma=losses_by_sigma(rows, edges=context.sigma_edges, ranks=context.runtime.world_size),
    )
