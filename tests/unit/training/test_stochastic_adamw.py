"""bf16 weights move as fp32 ones would, and are rounded in the same way however often a run is interrupted."""

from collections.abc import Iterable
from hashlib import blake2b

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from helpers.training.optim.stochastic_adamw import StochasticAdamW, random_low_bits, rounded_at_random
from tests.unit.training.test_optimizers import new_weights, set_gradients, take_steps

ROWS, COLUMNS = 32, 1024


def moved(optimizer_of: object, dtype: torch.dtype) -> Tensor:
    """How far 200 steps at 1e-6 move each row of weights of scale 0.05 on average, fp32 [ROWS].

    Each row has a gradient of its own under noise of the same size: what a fine-tune is made of.
    """
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter((0.05 * torch.randn(ROWS, COLUMNS, generator=draw)).bfloat16().to(dtype))
    before = weight.detach().float().clone()
    direction = torch.linspace(-1, 1, ROWS).unsqueeze(1) * 1e-5
    assert callable(optimizer_of)
    optimizer: Optimizer = optimizer_of([weight])
    for _ in range(200):
        noise = 1e-5 * torch.randn(ROWS, COLUMNS, generator=draw)
        weight.grad = (direction + noise).to(dtype)
        optimizer.step()
    return (weight.detach().float() - before).mean(dim=1)


def plain(weights: Iterable[nn.Parameter]) -> Optimizer:
    return AdamW(weights, lr=1e-6, weight_decay=0.0)


def stochastic(weights: Iterable[nn.Parameter]) -> Optimizer:
    return StochasticAdamW(weights, lr=1e-6, weight_decay=0.0, seed=0)


def test_the_movement_of_bf16_weights_against_fp32_s() -> None:
    """What is kept of fp32's movement, by its length along fp32's, and how nearly it points the same way.

    | optimizer                              | kept  | cosine |
    |----------------------------------------|-------|--------|
    | PyTorch's AdamW                        | 0.4 % | 0.89   |
    | ours                                   | 98.9 % | 0.9990 |
    | ours, weights in fp32, moments in bf16 | 100.0 % | 1.0000 |
    """
    exact = moved(plain, torch.float32)
    table = {}
    for name, optimizer_of, dtype in (
        ("plain", plain, torch.bfloat16),
        ("ours", stochastic, torch.bfloat16),
        ("ours fp32", stochastic, torch.float32),
    ):
        found = moved(optimizer_of, dtype)
        kept = (found @ exact / exact.square().sum()).item()
        table[name] = kept, torch.cosine_similarity(found, exact, dim=0).item()
    assert table["plain"][0] < 0.05
    for name in ("ours", "ours fp32"):
        kept, cosine = table[name]
        assert 0.9 <= kept <= 1.1, table
        assert cosine >= 0.98, table


def test_it_is_adamw_on_average() -> None:
    ours, theirs = new_weights(), new_weights()
    optimizer = StochasticAdamW(ours.values(), lr=1e-3, seed=0)
    exact = AdamW(theirs.values(), lr=1e-3)
    for step in range(200):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        exact.step()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=2e-3, rtol=0)
    states = [optimizer.state[weight] for weight in ours.values()]
    assert all(state[moment].dtype is torch.bfloat16 for state in states for moment in ("exp_avg", "exp_avg_sq"))


def test_it_rounds_by_seed_and_step_alone() -> None:
    def weights_after(seed: int) -> Tensor:
        weights = new_weights()
        optimizer = StochasticAdamW(weights.values(), lr=1e-2, seed=seed)
        take_steps(optimizer, weights, range(4))
        return weights["a.weight"].detach()

    first = weights_after(1)
    torch.manual_seed(4)
    assert torch.equal(weights_after(1), first)
    assert not torch.equal(weights_after(2), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_weights_moved_one_by_one_end_where_those_moved_together_do(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, apart, in_pieces = new_weights(dtype), new_weights(dtype), new_weights(dtype)
    optimizers = [StochasticAdamW(weights.values(), lr=1e-2, seed=0) for weights in (together, apart, in_pieces)]
    for step in range(5):
        set_gradients(together, step)
        optimizers[0].step()
        set_gradients(apart, step)
        gradients = {name: weight.grad for name, weight in apart.items()}
        for name in reversed(apart):
            for weight in apart.values():
                weight.grad = None
            apart[name].grad = gradients[name]
            optimizers[1].step()
    with monkeypatch.context() as patched:
        patched.setattr("helpers.training.optim.stochastic_adamw.WEIGHTS_AT_ONCE", 30)
        for step in range(5):
            set_gradients(in_pieces, step)
            optimizers[2].step()
    for name, weight in together.items():
        assert torch.equal(apart[name], weight), name
        assert torch.equal(in_pieces[name], weight), name


def test_random_rounding_keeps_the_mean_and_numbers_that_fit() -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.full((200_000,), -1.001)
    rounded = rounded_at_random(values, random_low_bits(200_000, draw))
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert rounded.mean().item() == pytest.approx(-1.001, abs=3e-5)
    fitting = torch.tensor([0.0, -0.0, 1.0, -2.5, 3e38, 1e-40]).bfloat16().float()
    assert torch.equal(rounded_at_random(fitting, random_low_bits(6, draw)), fitting)


def test_what_is_drawn_stays_what_it_is_so_that_checkpoints_resume_to_the_bit() -> None:
    """Of a weight's step: BLAKE2b of its seed, place and count; 16 bits for each number of the first moment first."""
    weight = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    optimizer = StochasticAdamW([nn.Parameter(torch.ones(1)), weight], lr=1e-3, seed=7)
    weight.grad = torch.linspace(-1, 1, 8).bfloat16()
    optimizer.step()
    seed = int.from_bytes(blake2b(b"(7, 'rounding', 1, 1)", digest_size=8).digest(), "little")
    low_bits = torch.randint(0, 2**16, (8,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    exact = torch.zeros(8).lerp(weight.grad.float(), 1 - 0.9)
    drawn = ((exact.view(torch.int32) + low_bits) & ~0xFFFF).view(torch.float32)
    assert torch.equal(optimizer.state[weight]["exp_avg"].float(), drawn)
