"""How long a run is, when it saves and validates, and how far it has come."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from helpers.config.options.training import CheckpointOptions, OptimizerOptions, RunOptions
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position
from helpers.training.optim.lr_schedules import learning_rate


@dataclass(kw_only=True)
class TrainState:
    """The progress of a run: `step` optimizer steps are done, `position` is the next batch in the data order."""

    step: int = 0
    position: Position = field(default_factory=Position)


@dataclass(frozen=True, kw_only=True)
class StepInfo:
    """A moment between optimizer steps: `step` are done. epochs: numbers, from 1, of those that the last step ended.

    is_begin: this process has not trained yet; it may resume a run. is_end: the run is complete.
    """

    step: int
    epochs: range = range(0)
    is_begin: bool = False
    is_end: bool = False


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Every `steps` optimizer steps, every `epochs` epochs (None: steps only), and at the end."""

    steps: int
    epochs: int | None = None

    def includes(self, info: StepInfo) -> bool:
        if info.is_end or info.step % self.steps == 0:
            return True
        return self.epochs is not None and any(epoch % self.epochs == 0 for epoch in info.epochs)


@dataclass(frozen=True, kw_only=True)
class LoopPlan:
    """The length of a run and its intervals; all counts are optimizer steps unless stated otherwise.

    accumulation: batches whose gradients make one step. max_grad_norm: see `Runtime.clip_gradients`.
    fused_backward: see `optim.optimizer_step.FusedBackwardStep`. learning_rate: by step, from 0.
    next_position: the position one batch later. images_per_step: over all ranks.
    """

    total_steps: int
    accumulation: int
    checkpoint_every: int
    max_grad_norm: float
    fused_backward: bool
    learning_rate: Callable[[int], float]
    next_position: Callable[[Position], Position]
    steps_per_epoch: float
    images_per_step: int

    def remaining_saves(self, step: int) -> int:
        """How many checkpoints are still to be written after `step`; the last step is always saved."""
        last = self.total_steps // self.checkpoint_every - step // self.checkpoint_every
        return max(0, last) + (self.total_steps % self.checkpoint_every > 0 and step < self.total_steps)


def plan_run(
    order: SampleOrder,
    *,
    run: RunOptions,
    optimizer: OptimizerOptions,
    checkpoint: CheckpointOptions,
    start: TrainState | None = None,
) -> LoopPlan:
    """The plan of a run over `order`: MAX_TRAIN_STEPS, or as many steps as NUM_TRAIN_EPOCHS take.

    start: where the run resumes. Earlier steps may have had another batch size or number of processes, so the remaining
    steps are counted from there.
    """
    accumulation = run.gradient_accumulation_steps
    start = start or TrainState()
    batches_left = order.batches_before(run.num_train_epochs) - order.batches_done(start.position)
    total = run.max_train_steps or start.step + max(0, -(-batches_left // accumulation))
    images_per_step = order.images_per_batch * accumulation
    return LoopPlan(
        total_steps=total,
        accumulation=accumulation,
        checkpoint_every=checkpoint.checkpointing_steps,
        max_grad_norm=optimizer.max_grad_norm,
        fused_backward=optimizer.fused_backward,
        learning_rate=partial(learning_rate, options=optimizer, total_steps=total),
        next_position=order.next_position,
        steps_per_epoch=sum(order.bucket_images_per_epoch) / images_per_step,
        images_per_step=images_per_step,
    )
