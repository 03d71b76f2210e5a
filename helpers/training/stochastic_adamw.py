"""AdamW that keeps its moments in bf16 by rounding at random, because rounding to nearest would freeze them.

bf16 has 8 significant bits: a moment that moves by less than 1/256 of itself (the second one does, at a rate of 0.001)
is rounded back to where it was. Rounded up or down at random, by how near each is, it moves right on average. torchao's
optimiser of the same kind compiles each shape of weight anew (23 s for two shapes on two cores) or, not compiled, takes
13 times as long per step as PyTorch's fused AdamW; this one works on many tensors at once and needs no compiler.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.batches.randomness import number

# Bounds the working memory to 4 times 4 bytes for each of so many weights, whatever the model's size.
WEIGHTS_AT_ONCE = 2**24
LOW_BITS = 0xFFFF


class StochasticAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with moments in bf16, computed in fp32.

    Weights in bf16 are rounded in the same way, weights in fp32 stay exact. What is drawn for a step depends on `seed`
    and the step's number alone, so a resumed run rounds as one that was not interrupted.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        seed: int,
    ) -> None:
        super().__init__(weights, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient."""
        for index, group in enumerate(self.param_groups):
            group["step"] += 1
            generator = torch.Generator(group["params"][0].device)
            generator.manual_seed(number(self._seed, "rounding", index, group["step"]))
            for weights in _portions([weight for weight in group["params"] if weight.grad is not None]):
                self._move(weights, group, generator)

    def _move(self, weights: list[nn.Parameter], group: dict[str, Any], generator: torch.Generator) -> None:
        beta1, beta2 = group["betas"]
        gradients = _flat([weight.grad for weight in weights if weight.grad is not None])
        states = [self._state(weight) for weight in weights]
        firsts, seconds = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        first = _flat(firsts).lerp_(gradients, 1 - beta1)
        second = _flat(seconds).lerp_(gradients.square_(), 1 - beta2)
        _store(first, firsts, generator)
        _store(second, seconds, generator)

        bias1, bias2 = 1 - beta1 ** group["step"], 1 - beta2 ** group["step"]
        length = second.sqrt_().div_(math.sqrt(bias2)).add_(group["eps"])
        moved = _flat(weights).mul_(1 - group["lr"] * group["weight_decay"])
        _store(moved.addcdiv_(first, length, value=-group["lr"] / bias1), weights, generator)

    def _state(self, weight: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[weight]
        if not state:
            state["exp_avg"] = torch.zeros_like(weight, dtype=torch.bfloat16)
            state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.bfloat16)
        return state


def _portions(weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Runs of weights of one number format, of `WEIGHTS_AT_ONCE` numbers at the most or a single larger weight."""
    portion: list[nn.Parameter] = []
    numbers = 0
    for weight in weights:
        if portion and (numbers + weight.numel() > WEIGHTS_AT_ONCE or weight.dtype is not portion[0].dtype):
            yield portion
            portion, numbers = [], 0
        portion.append(weight)
        numbers += weight.numel()
    if portion:
        yield portion


def _flat(tensors: list[Any]) -> Tensor:
    """All numbers of `tensors` in one new fp32 vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).float()


def _store(values: Tensor, into: list[Any], generator: torch.Generator) -> None:
    """Put a vector's numbers where `_flat` took them from, rounded at random where bf16 is stored."""
    if any(tensor.dtype is torch.bfloat16 for tensor in into):
        values = rounded_at_random(values, generator)
    parts = values.split([tensor.numel() for tensor in into])
    for tensor, part in zip(into, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def rounded_at_random(values: Tensor, generator: torch.Generator) -> Tensor:
    """Finite fp32 `values` rounded to numbers that bf16 has, up with the probability that keeps their mean; fp32.

    bf16 is the upper half of fp32: a random lower half is added, which carries as often as it should, and cut off.
    """
    bits = values.view(torch.int32)
    dither = torch.randint(0, LOW_BITS + 1, bits.shape, generator=generator, device=bits.device, dtype=torch.int32)
    return dither.add_(bits).bitwise_and_(~LOW_BITS).view(torch.float32)
