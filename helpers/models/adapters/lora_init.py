"""Where a LoRA begins other than drawn: at a part of the frozen weights, or at what quantizing took from them."""

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
"""Opens the base's files: its tensors as they were before they were quantized, by the layers' names."""


def init_from_base(
    denoiser: nn.Module, *, kind: str, base: OpenBase | None, adapter: str, seed: int
) -> dict[str, nn.Parameter]:
    """Let an attached LoRA begin as a `lora_init_type` of the base's numbers says; nothing where it is another.

    Returns the tensors that it began at, frozen, by the names that the adapter's tensors have.
    """
    if kind in PISSA_LIKE:
        return _subtract_start(denoiser, kind=kind, adapter=adapter, seed=seed)
    if kind == LOFTQ:
        assert base is not None, "what quantizing took is found in the base's files"
        return _loftq_init(denoiser, base=base, adapter=adapter, seed=seed)
    return {}


def _subtract_start(denoiser: nn.Module, *, kind: str, adapter: str, seed: int) -> dict[str, nn.Parameter]:
    """Let an attached LoRA begin at a part of the frozen weights, and take that part away beside it.

    h = W x + s B A x - s B0 A0 x with A, B learned from A0, B0 on: what PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz
    2024) do by changing W. Left alone, W may be quantized, and what was learned is B A - B0 A0 of twice the rank, for
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
            down, up = _low_rank_factors(
                dequantize(layer.get_base_layer()).cpu(), kind=kind, rank=rank, strength=strength
            )
        layer.scaling[START] = -strength
        layer.set_adapter([adapter, START])
        frozen: Any = (layer.lora_A[START], layer.lora_B[START])
        _begin_at(moving, down=down, up=up)
        for part, learns, stays in zip("AB", moving, frozen, strict=True):
            stays.weight = nn.Parameter(learns.weight.detach().clone(), requires_grad=False)
            started[f"{name}.lora_{part}.weight"] = stays.weight
    return started


def _loftq_init(denoiser: nn.Module, *, base: OpenBase, adapter: str, seed: int) -> dict[str, nn.Parameter]:
    """Let an attached LoRA begin at the largest singular parts of W - Q(W) of each quantized layer, one at a time.

    h = Q(W) x + s B A x, with s B0 A0 ≈ W - Q(W) at this rank: LoftQ (Li et al. 2023, algorithm 1) of one step. More
    of them would change Q(W) itself, which would then have to be kept in every checkpoint. Layers that are not
    quantized begin as they were drawn. Returns A0 and B0 by the names that the adapter's tensors have.
    """
    from peft.tuners.lora import Linear

    started: dict[str, nn.Parameter] = {}
    for name, layer in [(name, module) for name, module in denoiser.named_modules() if isinstance(module, Linear)]:
        begins: Any = (layer.lora_A[adapter], layer.lora_B[adapter])
        rough = layer.get_base_layer()
        if is_quantized(rough):
            with base() as (tensors, _):
                lost = tensors[f"{name}.weight"].make().float() - dequantize(rough).cpu()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                down, up = _low_rank_factors(lost, kind="pissa", rank=layer.r[adapter], strength=layer.scaling[adapter])
            _begin_at(begins, down=down, up=up)
        for part, each in zip("AB", begins, strict=True):
            started[f"{name}.lora_{part}.weight"] = nn.Parameter(each.weight.detach().clone(), requires_grad=False)
    return started


def _begin_at(pair: Any, *, down: Tensor, up: Tensor) -> None:
    """Put A0 and B0 into a LoRA's pair; what a rank has beyond the layer's smaller edge begins at nothing, as drawn."""
    pair[0].weight.data[: len(down)].copy_(down)
    pair[1].weight.data[:, : len(down)].copy_(up)


def _low_rank_factors(weight: Tensor, *, kind: str, rank: int, strength: float) -> tuple[Tensor, Tensor]:
    """A0 [rank, inputs] and B0 [outputs, rank] of a weight [outputs, inputs], whose smaller edge may be less than rank.

    pissa: the largest singular values with their vectors, s B0 A0 ≈ W at this rank. olora: the first of W = Q R.
    """
    if kind == "pissa":
        u, s, v = torch.svd_lowrank(weight, q=min(2 * rank, *weight.shape), niter=ITERATIONS)
        root = (s[:rank] / strength).sqrt()
        return root[:, None] * v[:, :rank].T, u[:, :rank] * root
    q, _ = torch.linalg.qr(weight[:, :rank])
    return q.T @ weight, q
