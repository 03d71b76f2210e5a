"""How gradients become a step: all of them at its end, or each while the backward pass still goes on."""

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
    """What `take_step` asks for, in this order."""

    def begin(self, rate: float) -> None:
        """A step begins, at this learning rate."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss`."""
        ...

    def gradient_norm(self) -> Tensor:
        """The length of all gradients taken as one vector, before they were shortened; fp32 []."""
        ...

    @property
    def has_updated(self) -> bool:
        """Whether some weights have moved since the step began."""
        ...

    def finish(self) -> None:
        """Loss and gradients being finite numbers: the weights have moved when this returns."""
        ...


class StandardStep:
    """Gathers all gradients, shortens them together, and moves all weights."""

    def __init__(
        self, runtime: Runtime, *, weights: Mapping[str, nn.Parameter], optimizer: Optimizer, max_grad_norm: float
    ) -> None:
        self._runtime = runtime
        self._weights = weights
        self._optimizer = optimizer
        self._longest_gradient = max_grad_norm

    def begin(self, rate: float) -> None:
        set_learning_rate(self._optimizer, rate)

    def backward(self, loss: Tensor) -> None:
        self._runtime.backward(loss)

    def gradient_norm(self) -> Tensor:
        return self._runtime.clip_gradients(self._weights.values(), longest=self._longest_gradient)

    @property
    def has_updated(self) -> bool:
        return False  # as `finish` ends the step

    def finish(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class ZeroStep:
    """Gathers all gradients, of which each process keeps a part, shortens them together, and moves all weights."""

    def __init__(self, optimizer: ZeroOptimizer) -> None:
        self.optimizer = optimizer

    def begin(self, rate: float) -> None:
        set_learning_rate(self.optimizer, rate)

    def backward(self, loss: Tensor) -> None:
        self.optimizer.engine.backward(loss)

    def gradient_norm(self) -> Tensor:
        return self.optimizer.engine.optimizer.scaled_global_norm()  # infinite where it is no number

    @property
    def has_updated(self) -> bool:
        return False  # as `finish` ends the step

    def finish(self) -> None:
        self.optimizer.engine.step()  # which shortens and drops the gradients too


class FusedBackwardStep:
    """Moves each weight, and drops its gradient, as soon as the backward pass has it: never are two of them held.

    For an optimizer that moves each weight by its own gradient alone, one backward pass to a step, and one process.
    """

    def __init__(self, runtime: Runtime, *, optimizer: Optimizer) -> None:
        self._runtime = runtime
        self._optimizer = optimizer
        self._squares: list[Tensor] = []
        self._group_of = {weight: group for group in optimizer.param_groups for weight in group["params"]}

    @contextmanager
    def registered(self) -> Iterator["FusedBackwardStep"]:
        """Within it backward passes move the weights."""
        groups = self._optimizer.param_groups
        members = [group["params"] for group in groups]
        handles = [weight.register_post_accumulate_grad_hook(self._move) for weight in self._group_of]
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
        if torch.isfinite(loss):  # waits for the device, as no weight may move by a loss that is no number
            self._runtime.backward(loss)

    def gradient_norm(self) -> Tensor:
        squares = self._squares or [torch.zeros((), device=self._runtime.device)]
        return torch.stack(squares).sum().sqrt()

    @property
    def has_updated(self) -> bool:
        return bool(self._squares)

    def finish(self) -> None:
        """All has been done on the way."""

    def _move(self, weight: Tensor) -> None:
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
    """How the steps of a run are taken, for as long as this context lasts."""
    if isinstance(optimizer, ZeroOptimizer):
        yield ZeroStep(optimizer)
    elif fused_backward:
        with FusedBackwardStep(runtime, optimizer=optimizer).registered() as during:
            yield during
    else:
        yield StandardStep(runtime, weights=weights, optimizer=optimizer, max_grad_norm=max_grad_norm)
