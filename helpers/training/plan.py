"""How long a run is and when its duties are due, worked out once from what was asked and the order of the data."""

from functools import partial

from helpers.config.options.training import CheckpointOptions, OptimizerOptions, RunOptions
from helpers.dataloader.sampler import SampleOrder
from helpers.training.loop import LoopPlan
from helpers.training.optim.lr_schedules import learning_rate
from helpers.training.state import TrainState


def plan_run(
    order: SampleOrder,
    *,
    run: RunOptions,
    optimizer: OptimizerOptions,
    checkpoint: CheckpointOptions,
    start: TrainState | None = None,
) -> LoopPlan:
    """The plan of a run over `order`; as many steps as asked, or as the epochs asked for take.

    start: where the run goes on, if not at the beginning. Its steps may have been longer or shorter ones, of another
    number of processes: what is still to come is counted from there.
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
