"""One training step of the small model, for tests of what may not change its numbers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.models.family import ModelComponents
from helpers.models.sd3.transformer import enable_checkpointing, load_denoiser, predict
from tests.unit.models.lora import attach

Change = Callable[[nn.Module], object]
CPU = torch.device("cpu")


def loaded(
    parts: ModelComponents, *changes: Change, waiting: int = 0, checkpointed: bool = True, **precision: str
) -> tuple[nn.Module, list[nn.Parameter]]:
    """The denoiser with a LoRA that is not zero, changed, in training mode; and what is trained of it."""
    said = PrecisionOptions(**{"mixed_precision": "no", "base_model_default_dtype": "fp32", **precision})
    denoiser = load_denoiser(parts, said, CPU, waiting=waiting)
    weights = list(attach(denoiser, LoraOptions(lora_rank=4), seed=0).values())
    draw = torch.Generator().manual_seed(1)
    for weight in weights:
        weight.data.normal_(std=0.1, generator=draw)
    if checkpointed:
        enable_checkpointing(denoiser)
    for change in changes:
        change(denoiser)
    return denoiser.train(), weights


def given(height: int = 8, width: int = 8, *, images: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the small model predicts from, of latents of that size."""
    draw = torch.Generator().manual_seed(2)
    noisy = torch.randn(images, 16, height, width, generator=draw)
    prompts = torch.randn(images, 154, 48, generator=draw)
    return noisy, torch.rand(images, generator=draw), prompts, torch.randn(images, 40, generator=draw)


def gradients(
    denoiser: nn.Module, weights: Sequence[nn.Parameter], *, height: int = 8, width: int = 8, bf16: bool = False
) -> list[Tensor]:
    """Of the mean square of a prediction; the prediction comes first."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        predicted = predict(denoiser, *given(height, width))
    return [predicted.detach(), *torch.autograd.grad(predicted.float().square().mean(), weights)]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Bit for bit, and not zeros."""
    assert all(tensor.abs().sum() > 0 for tensor in first[:3])
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
