"""The environment variables that configure libraries, set before any of them is imported."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

LYCORIS_BACKEND = "LYCORIS_KERNEL_BACKEND"
ALLOCATOR = "PYTORCH_ALLOC_CONF"
# PyTorch reads the first; the others are its older names for it.
ALLOCATOR_NAMES = (ALLOCATOR, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
KERNEL = Path("/proc/version")


def set_up_libraries() -> None:
    """Choose LyCORIS's backend and PyTorch's allocator, unless the user has set them.

    LyCORIS: on CUDA it would use its triton kernels, or compile with inductor, with results that differ from every
    other device. Its plain PyTorch code needs no compiler.
    The allocator: expandable segments leave less memory reserved and unused if sizes differ between batches.
    """
    os.environ.setdefault(LYCORIS_BACKEND, "torch")
    if segments_can_grow(version("torch")) and not any(name in os.environ for name in ALLOCATOR_NAMES):
        os.environ[ALLOCATOR] = "expandable_segments:True"


def segments_can_grow(pytorch: str, *, kernel: Path = KERNEL) -> bool:
    """Whether a CUDA device can use expandable segments here, with PyTorch of this version.

    On Linux, but not on WSL, whose NVIDIA drivers before 615 fail at the first allocation (pytorch/pytorch issue
    192330), and not with ROCm, where it was not tested. kernel: the file that names the system's kernel.
    """
    if sys.platform != "linux" or "rocm" in pytorch:
        return False
    return not kernel.exists() or "microsoft" not in kernel.read_text().lower()
