"""LoRA initialization from the base weights (PiSSA, OLoRA) or from the quantization error (LoftQ)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from helpers.models.formats.safetensors import Opened
from helpers.models.quantization import dequantize, is_quantized

START = "start"
PISSA_LIKE = ("pissa", "olora")
LOFTQ = "loftq"
ITERATIONS = 16

OpenBase = Callable[[], AbstractContextManager[Opened]]
"""Opens the base's files: its unquantized tensors, by the layers' names."""


def init_from_base(
    denoiser: nn.Module, *, kind: str, base: OpenBase | None, adapter: str, seed: int
) -> dict[str, nn.Parameter]:
    """Initialize an attached LoRA from the base's weights, if `kind` is a `lora_init_type` that uses them.

    Returns the initial values, frozen, by the adapter's tensor names; empty for other kinds.
    """
    if kind in PISSA_LIKE:
        return _subtract_start(denoiser, kind=kind, adapter=adapter, seed=seed)
    if kind == LOFTQ:
        assert base is not None, "LoftQ needs the base's files"
        return _loftq_init(denoiser, base=base, adapter=adapter, seed=seed)
    return {}


def _subtract_start(denoiser: nn.Module, *, kind: str, adapter: str, seed: int) -> dict[str, nn.Parameter]:
    """Initialize an attached LoRA from the frozen weights, and subtract its initial value in a second, frozen LoRA.

    h = W x + s B A x - s B0 A0 x with A, B trained from A0, B0 on. PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz 2024)
    change W instead. With W unchanged, W may be quantized, and the result is B A - B0 A0 of twice the rank, for the
    original base. Returns the frozen A0 and B0 by the adapter's tensor names.
    """
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    started: dict[str, nn.Parameter] = {}
    layers = [(name, module) for name, module in denoiser.named_modules() if isinstance(module, Linear)]
    for name, layer in layers:
        trained: Any = (layer.lora_A[adapter], layer.lora_B[adapter])
        rank, strength = layer.r[adapter], layer.scaling[adapter]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer.update_layer(START, rank, rank, config=LoraConfig(r=rank))
            down, up = _low_rank_factors(
                dequantize(layer.get_base_layer()).cpu(), kind=kind, rank=rank, strength=strength
            )
        layer.scaling[START] = -strength
        layer.set_adapter([adapter, START])
        frozen: Any = (layer.lora_A[START], layer.lora_B[START])
        _begin_at(trained, down=down, up=up)
        for part, trained_module, frozen_module in zip("AB", trained, frozen, strict=True):
            frozen_module.weight = nn.Parameter(trained_module.weight.detach().clone(), requires_grad=False)
            started[f"{name}.lora_{part}.weight"] = frozen_module.weight
    return started


def _loftq_init(denoiser: nn.Module, *, base: OpenBase, adapter: str, seed: int) -> dict[str, nn.Parameter]:
    """Initialize an attached LoRA with the largest singular values of W - Q(W) of each quantized layer.

    h = Q(W) x + s B A x, with s B0 A0 ≈ W - Q(W) at this rank: one step of LoftQ (Li et al. 2023, algorithm 1). More
    steps would change Q(W), which every checkpoint would then have to keep. Layers that are not quantized keep their
    random initialization. Returns A0 and B0 by the adapter's tensor names.
    """
    from peft.tuners.lora import Linear

    started: dict[str, nn.Parameter] = {}
    for name, layer in [(name, module) for name, module in denoiser.named_modules() if isinstance(module, Linear)]:
        pair: Any = (layer.lora_A[adapter], layer.lora_B[adapter])
        base_layer = layer.get_base_layer()
        if is_quantized(base_layer):
            with base() as (tensors, _):
                lost = tensors[f"{name}.weight"].make().float() - dequantize(base_layer).cpu()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                down, up = _low_rank_factors(lost, kind="pissa", rank=layer.r[adapter], strength=layer.scaling[adapter])
            _begin_at(pair, down=down, up=up)
        for part, each in zip("AB", pair, strict=True):
            started[f"{name}.lora_{part}.weight"] = nn.Parameter(each.weight.detach().clone(), requires_grad=False)
    return started


def _begin_at(pair: Any, *, down: Tensor, up: Tensor) -> None:
    """Copy A0 and B0 into a LoRA's pair; ranks beyond the layer's smaller dimension keep their initialization."""
    pair[0].weight.data[: len(down)].copy_(down)
    pair[1].weight.data[:, : len(down)].copy_(up)


def _low_rank_factors(weight: Tensor, *, kind: str, rank: int, strength: float) -> tuple[Tensor, Tensor]:
    """A0 [rank, inputs] and B0 [outputs, rank] of a weight [outputs, inputs]; their rank may be limited by its shape.

    pissa: the largest singular values and vectors, s B0 A0 ≈ W at this rank. olora: the first columns of W = Q R.
    """
    if kind == "pissa":
        u, s, v = torch.svd_lowrank(weight, q=min(2 * rank, *weight.shape), niter=ITERATIONS)
        root = (s[:rank] / strength).sqrt()
        return root[:, None] * v[:, :rank].T, u[:, :rank] * root
    q, _ = torch.linalg.qr(weight[:, :rank])
    return q.T @ weight, q
