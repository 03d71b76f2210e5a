"""Optimizer steps: all weights at the end of the backward pass, or each weight during it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.training.distributed.runtime import Runtime
from helpers.training.optim.optimizers import set_learning_rate
from helpers.training.optim.zero import ZeroOptimizer


class OptimizerStep(Protocol):
    """What `take_step` calls, in this order."""

    def begin(self, rate: float) -> None:
        """Begin a step with this learning rate."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`."""
        ...

    def gradient_norm(self) -> Tensor:
        """The gradient norm before clipping, fp32 []."""
        ...

    @property
    def has_updated(self) -> bool:
        """Whether some weights were updated since the step began."""
        ...

    def finish(self) -> None:
        """Update the weights, unless the backward pass did; loss and gradients are finite."""
        ...


class StandardStep:
    """Accumulates all gradients, clips them together and updates all weights."""

    def __init__(
        self, runtime: Runtime, *, weights: Mapping[str, nn.Parameter], optimizer: Optimizer, max_grad_norm: float
    ) -> None:
        self._runtime = runtime
        self._weights = weights
        self._optimizer = optimizer
        self._max_grad_norm = max_grad_norm

    def begin(self, rate: float) -> None:
        set_learning_rate(self._optimizer, rate)

    def backward(self, loss: Tensor) -> None:
        self._runtime.backward(loss)

    def gradient_norm(self) -> Tensor:
        return self._runtime.clip_gradients(self._weights.values(), max_norm=self._max_grad_norm)

    @property
    def has_updated(self) -> bool:
        return False  # `finish` updates them

    def finish(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class ZeroStep:
    """Like `StandardStep`, with ZeRO's engine, which shards the gradients."""

    def __init__(self, optimizer: ZeroOptimizer) -> None:
        self.optimizer = optimizer

    def begin(self, rate: float) -> None:
        set_learning_rate(self.optimizer, rate)

    def backward(self, loss: Tensor) -> None:
        self.optimizer.engine.backward(loss)

    def gradient_norm(self) -> Tensor:
        return self.optimizer.engine.optimizer.scaled_global_norm()  # infinite if NaN

    @property
    def has_updated(self) -> bool:
        return False  # `finish` updates them

    def finish(self) -> None:
        self.optimizer.engine.step()  # also clips and frees the gradients


class FusedBackwardStep:
    """Updates each weight as soon as its gradient is computed, then frees it: one gradient in memory at a time.

    For optimizers that update each weight from its own gradient alone, one backward pass per step, one process.
    """

    def __init__(self, runtime: Runtime, *, optimizer: Optimizer) -> None:
        self._runtime = runtime
        self._optimizer = optimizer
        self._squares: list[Tensor] = []
        self._group_of = {weight: group for group in optimizer.param_groups for weight in group["params"]}

    @contextmanager
    def registered(self) -> Iterator["FusedBackwardStep"]:
        """Within it, backward passes update the weights."""
        groups = self._optimizer.param_groups
        members = [group["params"] for group in groups]
        handles = [weight.register_post_accumulate_grad_hook(self._update) for weight in self._group_of]
        for group in groups:
            group["params"] = []
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            for group, weights in zip(groups, members, strict=True):
                group["params"] = weights

    def begin(self, rate: float) -> None:
        set_learning_rate(self._optimizer, rate)
        self._squares = []

    def backward(self, loss: Tensor) -> None:
        if torch.isfinite(loss):  # waits for the device: a NaN loss must not update any weight
            self._runtime.backward(loss)

    def gradient_norm(self) -> Tensor:
        squares = self._squares or [torch.zeros((), device=self._runtime.device)]
        return torch.stack(squares).sum().sqrt()

    @property
    def has_updated(self) -> bool:
        return bool(self._squares)

    def finish(self) -> None:
        """Nothing: the backward pass updated the weights."""

    def _update(self, weight: Tensor) -> None:
        assert weight.grad is not None
        self._squares.append(weight.grad.float().square().sum())
        group = self._group_of[weight]
        group["params"] = [weight]
        self._optimizer.step()
        group["params"] = []
        weight.grad = None


@contextmanager
def make_optimizer_step(
    runtime: Runtime,
    *,
    weights: Mapping[str, nn.Parameter],
    optimizer: Optimizer,
    max_grad_norm: float,
    fused_backward: bool,
) -> Iterator[OptimizerStep]:
    """The optimizer step of a run, valid within this context."""
    if isinstance(optimizer, ZeroOptimizer):
        yield ZeroStep(optimizer)
    elif fused_backward:
        with FusedBackwardStep(runtime, optimizer=optimizer).registered() as step:
            yield step
    else:
        yield StandardStep(runtime, weights=weights, optimizer=optimizer, max_grad_norm=max_grad_norm)
