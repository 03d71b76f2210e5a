"""Keeps what a backward pass needs in the processor's memory while the device computes other things."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

LEAST_BYTES = 2**20
"""Smaller tensors stay: their way would take longer than it saves."""

Away = tuple[torch.device, Tensor]


@contextmanager
def offload_saved_tensors(denoiser: nn.Module, *, least_bytes: int = LEAST_BYTES) -> Iterator[None]:
    """Tensors that autograd saves within it wait in the processor's memory until they are needed, the same to the bit.

    The weights of `denoiser` stay, of which `torch.autograd.graph.save_on_cpu` would make a copy at each step.
    """
    weights = {weight.data_ptr() for weight in denoiser.parameters() if not is_traceable_wrapper_subclass(weight)}

    def pack(tensor: Tensor) -> Tensor | Away:
        is_weight = is_traceable_wrapper_subclass(tensor) or tensor.data_ptr() in weights
        if is_weight or tensor.nbytes < least_bytes:
            return tensor
        # In the strides that it has: a matrix product of others may round otherwise.
        there = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return tensor.device, there.copy_(tensor, non_blocking=True)

    def unpack(packed: Tensor | Away) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        device, tensor = packed
        return tensor.to(device, non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def offload_activations(denoiser: nn.Module) -> None:
    """Have every forward pass of `denoiser` run within `offload_saved_tensors`, in place."""
    forward = denoiser.forward

    def away(*arguments: object, **named: object) -> object:
        with offload_saved_tensors(denoiser):
            return forward(*arguments, **named)

    denoiser.forward = away
