"""Ends a run before a NaN or infinite loss or gradient reaches the weights, and saves a checkpoint from before it.

A step's loss and gradient norm are checked between the backward pass and the optimizer, the one point at which the loop
waits for the device. This delays the optimizer's launch by about a millisecond, and no step ever has to be undone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from helpers.errors import NonFiniteLossError
from helpers.training.distributed.runtime import Runtime
from helpers.training.distributed.sharded_tensors import local_shard
from helpers.training.optim.optimizer_step import OptimizerStep
from helpers.training.plan import TrainState
from helpers.training.step import StepContext

MAX_LISTED = 8


class NonFiniteStep(Exception):
    """The loss or the gradient norm of a step is NaN or infinite; the message names the images."""


def check_finite(
    runtime: Runtime,
    *,
    loss: float,
    gradient_norm: float,
    losses: list[Tensor],
    sigmas: list[Tensor],
    images: Sequence[str],
) -> None:
    """Raise NonFiniteStep on all ranks unless `loss` and `gradient_norm`, the same on all ranks, are finite.

    losses, sigmas: of this rank's samples, batch by batch, each [B]. images: of all these samples.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    values = torch.cat(losses).tolist()
    named = [f"{name}, at σ = {sigma:.3f}" for name, sigma in zip(images, torch.cat(sigmas).tolist(), strict=True)]
    bad = [name for name, each in zip(named, values, strict=True) if not math.isfinite(each)]
    suspects = runtime.gather_objects(bad) or runtime.gather_objects(named)
    what = "gradient norm" if math.isfinite(loss) else "loss"
    more = f"\n  and {len(suspects) - MAX_LISTED} more" if len(suspects) > MAX_LISTED else ""
    listed = "\n".join(f"  {name}" for name in suspects[:MAX_LISTED])
    raise NonFiniteStep(f"the {what} is NaN or infinite. The images of this step:\n{listed}{more}")


@contextmanager
def checkpoint_on_failure(
    step_context: StepContext, *, stepping: OptimizerStep, state: TrainState, saved_step: int, save: Callable[..., None]
) -> Iterator[None]:
    """If the step within it raises NonFiniteStep, save the state before it and raise NonFiniteLossError.

    saved_step: of the last checkpoint. save: `TrainingHooks.save`. Collective: all ranks enter and leave.
    """
    position = state.position
    try:
        yield
    except NonFiniteStep as error:
        state.position = position
        has_nan = not all(local_shard(weight).isfinite().all() for weight in step_context.weights.values())
        damaged = step_context.runtime.on_any_rank(stepping.has_updated or has_nan)
        if not damaged and saved_step != state.step:
            save(state, keep_all=True)
        step_context.runtime.barrier()
        raise NonFiniteLossError(
            f"At optimizer step {state.step + 1} {error}\n{_advice(state.step, damaged=damaged)}"
        ) from None


def _advice(step: int, *, damaged: bool) -> str:
    if damaged:
        saved = "The weights are already damaged and were not saved: the same command resumes from the last checkpoint."
    elif step:
        saved = (
            f"The weights before it are saved in checkpoint-{step}, and the same command resumes from there."
            " If the loss was rising before, go back further: --resume_from_checkpoint=checkpoint-N."
        )
    else:
        saved = "No step was taken before it."
    return f"{saved}\nLower LEARNING_RATE, set MIXED_PRECISION=no, or remove a damaged image."
