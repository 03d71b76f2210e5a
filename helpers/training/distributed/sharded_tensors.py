"""Converts between full tensors and the shards that each process holds with FSDP2.

A sharded tensor is PyTorch's DTensor. It is recognized by its methods, since most runs never import the class.
"""

from typing import Any

from torch import Tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """`tensor` itself, or a sharded one gathered on the CPU; that is collective: all ranks call it."""
    return tensor.full_tensor().cpu() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_shard(tensor: Any) -> Tensor:
    """`tensor` itself, or this process's shard of a sharded one, sharing its memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def shard_like(value: Any, weight: Tensor) -> Any:
    """`value`, sharded like `weight` if that is sharded and of the same shape; each process has the full `value`."""
    if not is_sharded(weight) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a shard of it."""
    return hasattr(tensor, "full_tensor")
