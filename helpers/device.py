"""Memory of the device that models compute on: giving it back, and recognizing that it ran out."""

import gc

import torch

OUT_OF_MEMORY_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "_STATUS_ALLOC_FAILED")
"""Parts of the messages where PyTorch has no exception type for it: on the CPU, Apple's GPUs, in CUDA's libraries."""


def release_device_memory() -> None:
    """Give memory that nothing refers to any more back to the device; drop your references first."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether the memory of the device or of the machine ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(part in str(error) for part in OUT_OF_MEMORY_MESSAGES)
