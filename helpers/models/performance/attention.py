"""Lets a person choose which of PyTorch's attention kernels computes a denoiser's attention, and only that."""

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
"""That of every SD3."""
HOPPER = (9, 0)
"""H100 and H200, by compute capability."""


@dataclass(frozen=True)
class _ByKernel:
    """A processor of diffusers' attention, held to one kernel wherever it is called: when recomputing, too."""

    processor: Any
    kernel: SDPBackend

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with sdpa_kernel(self.kernel):
            return self.processor(*arguments, **named)


def leave_out_cudnn(device: torch.device) -> None:
    """On Hopper, have PyTorch choose among its other kernels, flash first, where nobody asks for cuDNN's by name.

    PyTorch 2.13 takes cuDNN's first there, whose gradients are not numbers for some inputs (NVIDIA/cudnn-frontend
    issues 160 and 1072, pytorch/pytorch issue 196678). It holds for the whole process: text encoders, too.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) == HOPPER:
        torch.backends.cuda.enable_cudnn_sdp(False)


def use_attention(denoiser: nn.Module, attention: str) -> None:
    """Have every attention of `denoiser` computed by the kernel of that name; `auto` leaves the choice to PyTorch.

    A kernel asked for by name is used although `leave_out_cudnn` has left it out.
    """
    if attention == AUTO:
        return
    from diffusers.models.attention_processor import Attention

    for module in denoiser.modules():
        if isinstance(module, Attention):
            module.set_processor(_ByKernel(module.processor, KERNELS[attention]))  # type: ignore[arg-type]


def can_attend(attention: str, *, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `device` has the kernel of that name for numbers of `dtype`, found by trying it, backward pass included.

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
