"""AdamW for weights and moments in bf16 with stochastic rounding, because rounding to nearest would freeze them.

bf16 has 8 significant bits: a change of less than 1/256 of a number (typical of the second moment at a rate of 0.001,
and of weights at the learning rates of fine-tuning) is rounded away. Stochastic rounding goes up or down with a
probability given by the distance, so the mean is right. torchao's optimizer of the same kind compiles each shape of
weight again (23 s for two shapes on two cores) or, not compiled, takes 13 times as long per step as PyTorch's fused
AdamW, and uses the global random state; this one works on many tensors at once and needs no compiler.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.dataloader.rng import seeded_int
from helpers.training.distributed.sharded_tensors import is_sharded, local_shard

# Limits the working memory to 6 times 4 bytes for each of this many weights, whatever the model's size.
WEIGHTS_AT_ONCE = 2**24
LOW_BITS = 0xFFFF


class StochasticAdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with moments in bf16, computed in fp32.

    Weights in bf16 are rounded in the same way, weights in fp32 stay exact. The random bits of a weight's step depend
    only on `seed`, its index and its step count: a resumed run rounds like an uninterrupted one, and weights updated
    one by one like those updated together.
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
        super().__init__(weights, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._seed = seed
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self._places = {weight: place for place, weight in enumerate(weights)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for weights in self._portions([weight for weight in group["params"] if weight.grad is not None]):
                self._update(weights, group)

    def _update(self, weights: list[nn.Parameter], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        gradients = _flat([weight.grad for weight in weights])
        states = [self.state[weight] for weight in weights]
        for state in states:
            state["step"] += 1
        step = states[0]["step"]
        generators = [
            torch.Generator(weight.device).manual_seed(seeded_int(self._seed, "rounding", *self._place(weight), step))
            for weight in weights
        ]

        firsts, seconds = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        first = _flat(firsts).lerp_(gradients, 1 - beta1)
        second = _flat(seconds).lerp_(gradients.square_(), 1 - beta2)
        _store(first, firsts, generators)
        _store(second, seconds, generators)

        bias1, bias2 = 1 - beta1**step, 1 - beta2**step
        length = second.sqrt_().div_(math.sqrt(bias2)).add_(group["eps"])
        moved = _flat(weights).mul_(1 - group["lr"] * group["weight_decay"])
        _store(moved.addcdiv_(first, length, value=-group["lr"] / bias1), weights, generators)

    def _portions(self, weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
        """Groups of the same dtype and step count, of at most `WEIGHTS_AT_ONCE` numbers, or one larger weight."""
        portion: list[nn.Parameter] = []
        numbers = 0
        for weight in weights:
            if not self.state[weight]:
                moments = {name: torch.zeros_like(weight, dtype=torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}
                self.state[weight].update(step=0, **moments)
            if portion and (numbers + weight.numel() > WEIGHTS_AT_ONCE or self._kind(weight) != self._kind(portion[0])):
                yield portion
                portion, numbers = [], 0
            portion.append(weight)
            numbers += weight.numel()
        if portion:
            yield portion

    def _place(self, weight: Any) -> tuple[int, ...]:
        """The index of the weight and, if it is sharded, of the shard."""
        part = (weight.device_mesh.get_local_rank(),) if is_sharded(weight) else ()
        return (self._places[weight], *part)

    def _kind(self, weight: nn.Parameter) -> tuple[torch.dtype, int]:
        return weight.dtype, self.state[weight]["step"]


def _flat(tensors: list[Any]) -> Tensor:
    """The concatenated values of `tensors` as a new fp32 vector."""
    return torch.cat([local_shard(tensor.detach()).reshape(-1) for tensor in tensors]).float()


def _store(values: Tensor, into: list[Any], generators: list[torch.Generator]) -> None:
    """Copy a vector back into the tensors that `_flat` read, with stochastic rounding to bf16."""
    into = [local_shard(tensor) for tensor in into]
    lengths = [tensor.numel() for tensor in into]
    if into[0].dtype is torch.bfloat16:
        dither = [random_low_bits(length, draw) for length, draw in zip(lengths, generators, strict=True)]
        values = rounded_at_random(values, torch.cat(dither))
    for tensor, part in zip(into, values.split(lengths), strict=True):
        tensor.copy_(part.view_as(tensor))


def random_low_bits(count: int, draw: torch.Generator) -> Tensor:
    """int32 [count], uniform over the values of the lower 16 bits of an fp32 number."""
    return torch.randint(0, LOW_BITS + 1, (count,), generator=draw, device=draw.device, dtype=torch.int32)


def rounded_at_random(values: Tensor, low_bits: Tensor) -> Tensor:
    """Finite fp32 `values` rounded stochastically to bf16 values, which keeps their mean; fp32.

    bf16 is the upper half of fp32: random lower bits (int32, overwritten) are added, which carry with the right
    probability, and the lower half is then cleared.
    """
    return low_bits.add_(values.view(torch.int32)).bitwise_and_(~LOW_BITS).view(torch.float32)
