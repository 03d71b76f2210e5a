"""Learning rate schedules as pure functions of the optimizer step, so that a resumed run needs no state for them.

Steps count from 0 to `total_steps` - 1. The shapes are those of diffusers' and transformers' scripts under the same
names, so learning rates carry over from there.
"""

import math
from collections.abc import Callable
from fractions import Fraction

from helpers.config.options.training import OptimizerOptions


def learning_rate(step: int, *, options: OptimizerOptions, total_steps: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total_steps`."""
    warmup_steps = 0 if options.lr_scheduler == "constant" else options.lr_warmup_steps
    if step < warmup_steps:
        return options.learning_rate * step / warmup_steps
    # Exact, so that rounding cannot start a cycle one step late.
    progress = min(Fraction(1), Fraction(step - warmup_steps, max(1, total_steps - warmup_steps)))
    height = _shape(options)(progress)
    return options.lr_end + (options.learning_rate - options.lr_end) * height


def _shape(options: OptimizerOptions) -> Callable[[Fraction], float]:
    """From progress after the warm-up, in [0, 1], to a height between `lr_end` (0) and the learning rate (1)."""
    cycles = options.lr_num_cycles
    match options.lr_scheduler:
        case "constant" | "constant_with_warmup":
            return lambda progress: 1.0
        case "linear":
            return lambda progress: float(1 - progress)
        case "cosine":
            return _half_cosine
        case "cosine_with_restarts":
            return lambda progress: _half_cosine(cycles * progress % 1 if progress < 1 else progress)
        case "polynomial":
            return lambda progress: float(1 - progress) ** options.lr_power
        case "sine":
            return lambda progress: _half_cosine(2 * cycles * progress)
        case unknown:
            raise AssertionError(f"lr_scheduler {unknown} is declared and not built")


def _half_cosine(progress: Fraction) -> float:
    """From 1 at 0 to 0 at 1, and on as a wave (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))
