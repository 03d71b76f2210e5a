"""Ends a run whose next step would spoil the weights: names what it was, and leaves a checkpoint from before.

The figures of a step are looked at between the backward pass and the optimizer, the one moment at which the loop waits
for the device. All that the device misses meanwhile is the optimizer's launch, about a millisecond, and no step ever
has to be undone.
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
    """The loss of a step, or the length of its gradient, is infinite or not a number; says of which images."""


def check_finite(
    runtime: Runtime,
    *,
    loss: float,
    gradient_norm: float,
    losses: list[Tensor],
    sigmas: list[Tensor],
    images: Sequence[str],
) -> None:
    """Raise NonFiniteStep on all ranks unless the figures of a step, which are those of all ranks, are finite.

    losses, sigmas: of this rank's samples, batch by batch, each [B]. images: theirs, all of them.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    values = torch.cat(losses).tolist()
    named = [f"{name}, at σ = {sigma:.3f}" for name, sigma in zip(images, torch.cat(sigmas).tolist(), strict=True)]
    spoilt = [name for name, each in zip(named, values, strict=True) if not math.isfinite(each)]
    suspects = runtime.gather_objects(spoilt) or runtime.gather_objects(named)
    what = "length of the gradient" if math.isfinite(loss) else "loss"
    more = f"\n  and {len(suspects) - MAX_LISTED} more" if len(suspects) > MAX_LISTED else ""
    listed = "\n".join(f"  {name}" for name in suspects[:MAX_LISTED])
    raise NonFiniteStep(f"the {what} is not a finite number. The images that it comes of:\n{listed}{more}")


@contextmanager
def checkpoint_on_failure(
    step_context: StepContext, *, stepping: OptimizerStep, state: TrainState, saved_step: int, save: Callable[..., None]
) -> Iterator[None]:
    """Where the step taken within it comes to NonFiniteStep, save what was before it, and raise TrainingError.

    saved_step: that of the last checkpoint. save: `TrainingHooks.save`. All ranks come here, and leave together.
    """
    position = state.position
    try:
        yield
    except NonFiniteStep as error:
        state.position = position
        wrong = not all(local_shard(weight).isfinite().all() for weight in step_context.weights.values())
        spoilt = step_context.runtime.on_any_rank(stepping.has_updated or wrong)
        if not spoilt and saved_step != state.step:
            save(state, keep_all=True)
        step_context.runtime.barrier()
        raise NonFiniteLossError(
            f"At optimizer step {state.step + 1} {error}\n{_what_to_do(state.step, spoilt=spoilt)}"
        ) from None


def _what_to_do(step: int, *, spoilt: bool) -> str:
    if spoilt:
        stands = (
            "The weights are spoilt already, so they were not saved: the same command goes on from the last checkpoint."
        )
    elif step:
        stands = (
            f"The weights are as they were: checkpoint-{step} holds them, and the same command goes on from there."
            " Where the loss had been rising before, go back further: --resume_from_checkpoint=checkpoint-N."
        )
    else:
        stands = "Nothing was learned before it."
    return f"{stands}\nLower the LEARNING_RATE, say MIXED_PRECISION=no, or take a damaged image out."
