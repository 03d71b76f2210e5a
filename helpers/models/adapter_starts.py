"""Where a LoRA begins: drawn, or cut out of the frozen weights themselves, which stay as they are all the same."""

from typing import Any

import torch
from torch import Tensor, nn

from helpers.models.precision import dense

START = "start"
CUT_OUT = ("pissa", "olora")
ITERATIONS = 16


def subtract_start(denoiser: nn.Module, *, kind: str, adapter: str, seed: int) -> dict[str, nn.Parameter]:
    """Let an attached LoRA begin at a part of the frozen weights, and take that part away beside it.

    h = W x + s B A x - s B0 A0 x with A, B learnt from A0, B0 on: what PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz
    2024) do by changing W. Left alone, W may be quantised, and what was learnt is B A - B0 A0 of twice the rank, for
    the base as everyone has it. Returns the frozen A0 and B0 by the names that the adapter's tensors have.
    """
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    started: dict[str, nn.Parameter] = {}
    layers = [(name, module) for name, module in denoiser.named_modules() if isinstance(module, Linear)]
    for name, layer in layers:
        moving: Any = (layer.lora_A[adapter], layer.lora_B[adapter])
        rank, strength = layer.r[adapter], layer.scaling[adapter]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer.update_layer(START, rank, rank, config=LoraConfig(r=rank))
            down, up = _cut(dense(layer.get_base_layer()).cpu(), kind=kind, rank=rank, strength=strength)
        layer.scaling[START] = -strength
        layer.set_adapter([adapter, START])
        frozen: Any = (layer.lora_A[START], layer.lora_B[START])
        for part, learns, stays, numbers in zip("AB", moving, frozen, (down, up), strict=True):
            learns.weight.data.copy_(numbers)
            stays.weight = nn.Parameter(learns.weight.detach().clone(), requires_grad=False)
            started[f"{name}.lora_{part}.weight"] = stays.weight
    return started


def _cut(weight: Tensor, *, kind: str, rank: int, strength: float) -> tuple[Tensor, Tensor]:
    """A0 [rank, inputs] and B0 [outputs, rank] of a weight [outputs, inputs].

    pissa: the largest singular values with their vectors, s B0 A0 ≈ W at this rank. olora: the first of W = Q R.
    """
    if kind == "pissa":
        u, s, v = torch.svd_lowrank(weight, q=min(2 * rank, *weight.shape), niter=ITERATIONS)
        root = (s[:rank] / strength).sqrt()
        return root[:, None] * v[:, :rank].T, u[:, :rank] * root
    q, _ = torch.linalg.qr(weight[:, :rank])
    return q.T @ weight, q
