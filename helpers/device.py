"""Gives an encoder's memory back before the next is loaded, as only one may be in memory at a time."""

import gc

import torch


def release_device_memory() -> None:
    """Hand memory that nothing refers to any more back to the device; the caller has dropped its references."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
