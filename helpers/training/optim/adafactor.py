"""Adafactor that never waits for the device; PyTorch's own waits twice per weight to divide on the CPU."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim import Optimizer

# Gradients of a diffusion model are around 1e-5: PyTorch's default, 1e-7 in fp32, would exceed their squares.
SMALLEST_GRADIENT = 1e-16
# Steps scale with the weights only above 1, below that with the learning rate alone: an adapter that starts at zero
# would not train otherwise (`scale_parameter=False` elsewhere).
SMALLEST_WEIGHT = 1.0


class Adafactor(Optimizer):
    """Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) with the math and state of `torch.optim.Adafactor`.

    Checkpoints of either resume in the other. The norms of weights and updates stay on the device as tensors [].

    beta2_decay: how the averaging window grows. d: the largest root mean square of an update, before the rate.
    eps: the smallest root mean square of a gradient, and of a weight when steps scale with it.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        *,
        lr: float,
        beta2_decay: float = -0.8,
        d: float = 1.0,
        weight_decay: float = 0.0,
        eps: tuple[float, float] = (SMALLEST_GRADIENT, SMALLEST_WEIGHT),
    ) -> None:
        defaults = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(weights, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        smallest_gradient, smallest_weight = group["eps"]
        state = self.state[weight] or self._begin(weight, gradient)
        state["step"] += 1
        step = state["step"].item()  # on the CPU
        rate = min(group["lr"], step**-0.5)
        length = _root_mean_square(weight).clamp_(min=smallest_weight).mul_(-rate)
        if group["weight_decay"]:
            weight.mul_(1 - group["lr"] * group["weight_decay"])
        update = _mean_square(state, gradient, share=step ** group["beta2_decay"], smallest=smallest_gradient)
        update.clamp_(min=smallest_gradient**2).rsqrt_().mul_(gradient)
        too_long = _root_mean_square(update).div_(group["d"]).clamp_(min=1.0)
        weight.addcmul_(update, (length / too_long).to(update.dtype))

    def _begin(self, weight: nn.Parameter, gradient: Tensor) -> dict[str, Tensor]:
        """The initial state of a weight: for matrices [..., n, 1] and [..., 1, m], otherwise like the gradient."""
        state = self.state[weight]
        state["step"] = torch.tensor(0.0)
        if gradient.dim() > 1:
            state["row_var"] = torch.zeros_like(gradient[..., :1], memory_format=torch.contiguous_format)
            state["col_var"] = torch.zeros_like(gradient[..., :1, :], memory_format=torch.contiguous_format)
        else:
            state["variance"] = torch.zeros_like(gradient)
        return state


def _mean_square(state: dict[str, Tensor], gradient: Tensor, *, share: float, smallest: float) -> Tensor:
    """The running mean of squared gradients in the shape of `gradient`, updated with it."""
    if gradient.dim() == 1:
        return state["variance"].lerp_(gradient.square(), share).clone()
    rows, columns = state["row_var"], state["col_var"]
    rows.lerp_(_mean_of_squares(gradient, dim=-1), share)
    columns.lerp_(_mean_of_squares(gradient, dim=-2), share)
    return (rows @ columns).div_(rows.mean(dim=-2, keepdim=True).clamp_(min=smallest))


def _mean_of_squares(values: Tensor, *, dim: int) -> Tensor:
    return vector_norm(values, dim=dim, keepdim=True).square_().div_(values.size(dim))


def _root_mean_square(values: Tensor) -> Tensor:
    """fp32 []."""
    return vector_norm(values, dtype=torch.float32).div_(values.numel() ** 0.5)
