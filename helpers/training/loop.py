"""The loop: one fixed order of duties for each optimizer step, and one wait for the device."""

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
    """What is done between steps."""

    def on_step_end(self, step: int) -> None:
        """Optimizer step `step`, from 1, has moved the weights."""
        ...

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        """Let a complete checkpoint stand, on the first rank; older ones go, unless `keep_all`."""
        ...

    def validate(self, info: StepInfo) -> None:
        """Run the evaluators that are due, without effect on training; at the beginning only what is missing."""
        ...


def train(
    step_context: StepContext,
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

    batches: of this rank, from `state.position` on. Raises TrainingError before a step that would spoil the weights.
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
    gauge = StepTimer()
    steps = make_optimizer_step(
        step_context.runtime,
        weights=step_context.weights,
        optimizer=optimizer,
        max_grad_norm=plan.max_grad_norm,
        fused_backward=plan.fused_backward,
    )
    with stop.deferred(), steps as stepping:
        hooks.validate(StepInfo(step=state.step, is_begin=True, is_end=state.step >= plan.total_steps))
        step_context.denoiser.train()
        seeded = draws_random_numbers(step_context.denoiser)
        while state.step < plan.total_steps and not step_context.runtime.on_any_rank(stop.requested):
            gauge.begin()
            epoch = state.position.epoch
            with checkpoint_on_failure(
                step_context, stepping=stepping, state=state, saved_step=saved_step, save=hooks.save
            ):
                taken = take_step(
                    step_context, stepping=stepping, state=state, batches=batches, plan=plan, seeded=seeded
                )
            reporter.handle(gauge.measured(taken))
            hooks.on_step_end(state.step)
            is_last = state.step == plan.total_steps
            if is_last or state.step % plan.checkpoint_every == 0:
                hooks.save(state)
                saved_step = state.step
            hooks.validate(StepInfo(step=state.step, epochs=range(epoch + 1, state.position.epoch + 1), is_end=is_last))
        if saved_step != state.step:
            hooks.save(state)


def take_step(
    step_context: StepContext,
    *,
    stepping: OptimizerStep,
    state: TrainState,
    batches: Iterator[TrainBatch],
    plan: LoopPlan,
    seeded: bool,
) -> StepFinished:
    """One optimizer step. `state` moves with it; raises NonFiniteStep before the weights would be spoilt."""
    losses: list[Tensor] = []
    sigmas: list[Tensor] = []
    images: list[str] = []
    position = state.position
    rate = plan.learning_rate(state.step)
    stepping.begin(rate)
    for left in reversed(range(plan.accumulation)):
        batch = next(batches)
        with step_context.runtime.no_sync(step_context.denoiser) if left else nullcontext():
            share = 1 / plan.accumulation
            losses.append(forward_backward(step_context, batch, share=share, seeded=seeded, backward=stepping.backward))
        sigmas.append(batch.sigmas)
        images.extend(batch.paths)
        position = batch.position
        state.position = plan.next_position(position)

    all_losses = torch.cat(losses)
    norm = stepping.gradient_norm()
    by_sigma = sums_by_sigma(all_losses, torch.cat(sigmas), edges=step_context.sigma_edges).flatten()
    shared = step_context.runtime.mean_over_ranks(torch.cat([all_losses.mean().view(1), by_sigma]))
    gradient_norm, loss, *rows = torch.cat([norm.view(1), shared]).tolist()  # the one moment that waits for the device
    figures = {"loss": loss, "gradient_norm": gradient_norm}
    check_finite(step_context.runtime, **figures, losses=losses, sigmas=sigmas, images=images)

    stepping.finish()
    state.step += 1
    return StepFinished(
        step=state.step,
        epoch=position.epoch,
        loss=loss,
        learning_rate=rate,
        gradient_norm=gradient_norm,
        images=plan.images_per_step,
        by_sigma=losses_by_sigma(rows, edges=step_context.sigma_edges, ranks=step_context.runtime.world_size),
    )
