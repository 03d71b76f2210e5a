"""Selects the PyTorch attention kernel of a denoiser."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

AUTO = "auto"
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
HEAD_WIDTH = 64
"""The head width of every SD3."""
HOPPER = (9, 0)
"""The compute capability of H100 and H200."""


@dataclass(frozen=True)
class _ByKernel:
    """A diffusers attention processor that always uses one kernel, also when checkpointing recomputes it."""

    processor: Any
    kernel: SDPBackend

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with sdpa_kernel(self.kernel):
            return self.processor(*arguments, **named)


def leave_out_cudnn(device: torch.device) -> None:
    """On Hopper, make PyTorch choose among its other kernels, flash first, unless cuDNN's is set by name.

    PyTorch 2.13 prefers cuDNN's there, whose gradients are NaN for some inputs (NVIDIA/cudnn-frontend issues 160 and
    1072, pytorch/pytorch issue 196678). This applies to the whole process, including text encoders.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER:
        torch.backends.cuda.enable_cudnn_sdp(False)


def use_attention(denoiser: nn.Module, attention: str) -> None:
    """Compute every attention of `denoiser` with the named kernel; `auto` leaves the choice to PyTorch.

    A named kernel is used even if `leave_out_cudnn` has disabled it.
    """
    if attention == AUTO:
        return
    from diffusers.models.attention_processor import Attention

    for module in denoiser.modules():
        if isinstance(module, Attention):
            module.set_processor(_ByKernel(module.processor, KERNELS[attention]))  # type: ignore[arg-type]


def can_attend(attention: str, *, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `device` supports the named kernel with `dtype`, found by running it, including the backward pass.

    `auto` always works.
    """
    if attention == AUTO:
        return True
    tensor = torch.zeros(1, 2, HEAD_WIDTH, HEAD_WIDTH, device=device, dtype=dtype, requires_grad=True)
    try:
        with sdpa_kernel(KERNELS[attention]):
            scaled_dot_product_attention(tensor, tensor, tensor).sum().backward()
    except RuntimeError:
        return False
    return True
