"""Goes between a whole tensor and the part of it that each process holds where the engine divides the model.

A tensor in parts is PyTorch's DTensor. It is known by what it can do, since most runs never import the class.
"""

from typing import Any

from torch import Tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """`tensor` itself or, of one in parts, all of it in the machine's memory; then all processes come here."""
    return tensor.full_tensor().cpu() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_shard(tensor: Any) -> Tensor:
    """`tensor` itself or, of one in parts, the part that this process holds; it shares the memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def shard_like(value: Any, weight: Tensor) -> Any:
    """`value`; where it is as large as a `weight` that is in parts, which each process has whole, in such parts."""
    if not is_sharded(weight) or not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(weight, DTensor)
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it."""
    return hasattr(tensor, "full_tensor")
