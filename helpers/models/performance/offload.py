"""Offloads frozen blocks, and the tensors saved for the backward pass, to CPU memory.

The device has two buffers for blocks: while one block computes in the first, the next one is copied to the second, in
the forward pass and in the backward pass, where checkpointing recomputes blocks from the last to the first. A block's
parameters are one piece of memory, so that it is one copy. (diffusers' group offloading removes a block after its
forward pass, before its backward pass needs it.)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass

BUFFERS = 2
ALIGNED_BYTES = 256
"""The alignment of CUDA's own allocator, which kernels rely on."""

LEAST_BYTES = 2**20
"""Smaller saved tensors stay on the device: moving them would take longer than it saves."""

Offloaded = tuple[torch.device, Tensor]


def next_block(index: int, *, previous: int | None, count: int, learning: bool) -> int:
    """The block out of `count` that probably runs after `index`, which followed `previous`.

    learning: whether a backward pass follows the forward pass; otherwise the next forward pass follows.
    """
    goes_back = learning and previous is not None and index <= previous
    if goes_back and index > 0:
        return index - 1
    if index + 1 < count:
        return index + 1
    return max(index - 1, 0) if learning else 0


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """A frozen parameter's place in its module: its tensor in CPU memory, and one in each device buffer."""

    module: nn.Module
    name: str
    home: nn.Parameter
    on_device: tuple[nn.Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class _OffloadedBlock:
    """A block: its parameters in CPU memory in one piece, uint8 [bytes], and their places in the modules."""

    home: Tensor
    places: tuple[_Slot, ...]


class BlockOffloader:
    """Keeps the frozen parameters of a denoiser's blocks in CPU memory, and copies them to `device` for their passes.

    A hook copies each block before its forward pass; adapters stay on the device.
    resident_blocks: the blocks in the buffers.
    """

    def __init__(self, blocks: Sequence[nn.Module], *, device: torch.device) -> None:
        count = min(BUFFERS, len(blocks))
        size = max(_bytes_of(block) for block in blocks)
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(count)]
        self._blocks = [_offloaded_block(block, buffers=self._buffers, device=device) for block in blocks]
        self.resident_blocks: list[int | None] = [None] * count
        self._previous: int | None = None
        self._copies = _CopyStream(device, buffers=count)
        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._enter, index))

    def _enter(self, index: int, *_: Any) -> None:
        learning = torch.is_grad_enabled()
        following = next_block(index, previous=self._previous, count=len(self._blocks), learning=learning)
        if index not in self.resident_blocks:
            self._bring(index, besides=following)
        self._copies.wait_for(self.resident_blocks.index(index))
        if following not in self.resident_blocks:
            self._bring(following, besides=index)
        self._previous = index

    def _bring(self, index: int, *, besides: int) -> None:
        """Copy a block into a buffer that does not hold the block `besides`."""
        buffer = next(buffer for buffer, resident in enumerate(self.resident_blocks) if resident != besides)
        if (leaving := self.resident_blocks[buffer]) is not None:
            for place in self._blocks[leaving].places:
                place.module._parameters[place.name] = place.home
        offloaded = self._blocks[index]
        self._copies.copy(offloaded.home, self._buffers[buffer], buffer=buffer)
        for place in offloaded.places:
            place.module._parameters[place.name] = place.on_device[buffer]
        self.resident_blocks[buffer] = index


class _CopyStream:
    """A CUDA stream for copies, synchronized with the device's computation."""

    def __init__(self, device: torch.device, *, buffers: int) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrived = [torch.cuda.Event() for _ in range(buffers)] if self._stream else []

    def copy(self, home: Tensor, buffer_bytes: Tensor, *, buffer: int) -> None:
        """Start to fill a buffer, after all work queued so far, which may use its previous block."""
        to = buffer_bytes[: len(home)]
        if self._stream is None:
            to.copy_(home)
            return
        self._stream.wait_stream(torch.cuda.current_stream(buffer_bytes.device))
        with torch.cuda.stream(self._stream):
            to.copy_(home, non_blocking=True)
            self._arrived[buffer].record()

    def wait_for(self, buffer: int) -> None:
        """Make work queued from here on wait until the buffer is filled."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(self._arrived[buffer])


def _frozen(block: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    return [
        (module, name, parameter)
        for module in block.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and not parameter.requires_grad
    ]


def _bytes_of(block: nn.Module) -> int:
    sizes: list[int] = []
    for _, _, parameter in _frozen(block):
        _rebuilt(parameter, lambda tensor: sizes.append(_aligned(tensor.nbytes)) or tensor)
    return sum(sizes)


def _offloaded_block(block: nn.Module, *, buffers: Sequence[Tensor], device: torch.device) -> _OffloadedBlock:
    """Move the frozen parameters of `block` to CPU memory, in the layout of the device; the others go to the device."""
    block.to(device)
    home = torch.empty(_bytes_of(block), dtype=torch.uint8, pin_memory=device.type == "cuda")
    places, start = [], 0
    for module, name, parameter in _frozen(block):
        at_home = _Layout(home, start=start)
        own = _parameter(parameter, lambda tensor, at=at_home: at.take(tensor).copy_(tensor))
        on_device = [_parameter(parameter, _Layout(buffer, start=start).take) for buffer in buffers]
        places.append(_Slot(module=module, name=name, home=own, on_device=tuple(on_device)))
        module._parameters[name] = own
        start = at_home.end
    return _OffloadedBlock(home=home, places=tuple(places))


class _Layout:
    """Allocates consecutive parts of a piece of memory, uint8 [bytes]."""

    def __init__(self, memory: Tensor, *, start: int) -> None:
        self._memory = memory
        self.end = start

    def take(self, like: Tensor) -> Tensor:
        """The next part, as a tensor of the shape, strides and dtype of `like`."""
        part = self._memory[self.end : self.end + like.nbytes].view(like.dtype)
        self.end += _aligned(like.nbytes)
        return part.as_strided(like.shape, like.stride())


def _aligned(size: int) -> int:
    return -(-size // ALIGNED_BYTES) * ALIGNED_BYTES


def _parameter(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> nn.Parameter:
    return nn.Parameter(_rebuilt(tensor.detach(), change), requires_grad=False)


def _rebuilt(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """`tensor` with each of its plain tensors replaced by `change`; quantized weights have several."""
    if is_traceable_wrapper_subclass(tensor):
        return transform_subclass(tensor, lambda _, inner: _rebuilt(inner, change))
    return change(tensor)


@contextmanager
def offload_saved_tensors(denoiser: nn.Module, *, least_bytes: int = LEAST_BYTES) -> Iterator[None]:
    """Keep tensors that autograd saves in CPU memory until the backward pass needs them, bit for bit the same.

    The weights of `denoiser` stay; `torch.autograd.graph.save_on_cpu` would copy them at each step.
    """
    weights = {weight.data_ptr() for weight in denoiser.parameters() if not is_traceable_wrapper_subclass(weight)}

    def pack(tensor: Tensor) -> Tensor | Offloaded:
        is_weight = is_traceable_wrapper_subclass(tensor) or tensor.data_ptr() in weights
        if is_weight or tensor.nbytes < least_bytes:
            return tensor
        # With the same strides: a matrix product with other strides may round differently.
        there = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return tensor.device, there.copy_(tensor, non_blocking=True)

    def unpack(packed: Tensor | Offloaded) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        device, tensor = packed
        return tensor.to(device, non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield


def offload_activations(denoiser: nn.Module) -> None:
    """Run every forward pass of `denoiser` within `offload_saved_tensors`; changes it in place."""
    forward = denoiser.forward

    def away(*arguments: object, **named: object) -> object:
        with offload_saved_tensors(denoiser):
            return forward(*arguments, **named)

    denoiser.forward = away
