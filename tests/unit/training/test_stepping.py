"""Moving weights during the backward pass is the same step, with one gradient in memory at a time."""

import pytest
import torch
from torch import Tensor, nn

from helpers.config.optimizers import FUSABLE_OPTIMIZERS
from helpers.config.options.model import PrecisionOptions
from helpers.config.options.training import OptimizerOptions, RunOptions
from helpers.training.distributed.runtime import open_runtime
from helpers.training.optim.optimizer_step import make_optimizer_step
from helpers.training.optim.optimizers import make_optimizer

LAYERS = 6


def three_steps(name: str, *, dtype: torch.dtype, fused_backward: bool) -> tuple[dict[str, Tensor], list[float], int]:
    """The weights after three steps, the gradients' lengths, and how many gradients were there at once at most."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(9, 9) for _ in range(LAYERS))).to(dtype)
    weights = dict(model.named_parameters())
    runtime = open_runtime(PrecisionOptions(mixed_precision="no"), RunOptions(torch_num_threads=1))
    optimizer = make_optimizer(OptimizerOptions(optimizer=name), weights=weights, seed=0)
    most = 0

    def count(_: Tensor) -> None:
        nonlocal most
        most = max(most, sum(weight.grad is not None for weight in weights.values()))

    for weight in weights.values():
        weight.register_post_accumulate_grad_hook(count)
    norms = []
    steps = make_optimizer_step(
        runtime, weights=weights, optimizer=optimizer, max_grad_norm=0.0, fused_backward=fused_backward
    )
    with steps as stepping:
        for step in range(3):
            stepping.begin(0.01 / (1 + step))
            stepping.backward(model(torch.ones(2, 9, dtype=dtype)).square().mean())
            norms.append(stepping.gradient_norm().item())
            stepping.finish()
    assert optimizer.param_groups[0]["params"] == list(weights.values())
    return {name: weight.detach() for name, weight in weights.items()}, norms, most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", FUSABLE_OPTIMIZERS)
def test_a_step_during_the_backward_pass_is_the_step_after_it(optimizer: str, dtype: torch.dtype) -> None:
    after, norms_after, held_after = three_steps(optimizer, dtype=dtype, fused_backward=False)
    during, norms_during, held_during = three_steps(optimizer, dtype=dtype, fused_backward=True)
    for name, weight in after.items():
        assert torch.equal(during[name], weight), name
    assert norms_during == pytest.approx(norms_after, rel=1e-3 if dtype is torch.float32 else 1e-2)
    assert (held_after, held_during) == (2 * LAYERS, 1)


def test_a_loss_that_is_no_number_moves_nothing() -> None:
    weights = {"a": nn.Parameter(torch.ones(3))}
    runtime = open_runtime(PrecisionOptions(mixed_precision="no"), RunOptions(torch_num_threads=1))
    optimizer = make_optimizer(OptimizerOptions(), weights=weights, seed=0)
    with make_optimizer_step(
        runtime, weights=weights, optimizer=optimizer, max_grad_norm=0.0, fused_backward=True
    ) as stepping:
        stepping.begin(0.1)
        stepping.backward((weights["a"] * torch.nan).sum())
        assert stepping.gradient_norm().item() == 0.0
    assert weights["a"].tolist() == [1.0] * 3
