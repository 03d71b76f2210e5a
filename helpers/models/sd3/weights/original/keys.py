"""Renames an SD3 transformer's tensors between the original layout and diffusers', one tensor at a time.

The original joins queries, keys and values into one layer, and in the modulation of the last layers it has shift before
scale. Names are those of the published files; tests compare with diffusers' own converter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor

PREFIX = "model.diffusion_model."
POSITIONS = ("pos_embed", "pos_embed.pos_embed")
KINDS = (".weight", ".bias")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of the original, and the diffusers layers that it concatenates along rows.

    swapped: whether its two halves are in reverse order.
    """

    original: str
    diffusers: tuple[str, ...]
    swapped: bool = False


def layers(*, count: int) -> Iterator[Layer]:
    """Every layer that a transformer of `count` blocks may have; some are optional."""
    yield Layer(original="x_embedder.proj", diffusers=("pos_embed.proj",))
    for original, ours in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        yield Layer(original=f"{original}.mlp.0", diffusers=(f"time_text_embed.{ours}.linear_1",))
        yield Layer(original=f"{original}.mlp.2", diffusers=(f"time_text_embed.{ours}.linear_2",))
    yield Layer(original="context_embedder", diffusers=("context_embedder",))
    for number in range(count):
        yield from _block(number, is_last=number == count - 1)
    yield Layer(original="final_layer.linear", diffusers=("proj_out",))
    yield Layer(original="final_layer.adaLN_modulation.1", diffusers=("norm_out.linear",), swapped=True)


def _block(number: int, *, is_last: bool) -> Iterator[Layer]:
    image, text = (f"joint_blocks.{number}.{stream}_block" for stream in ("x", "context"))
    block = f"transformer_blocks.{number}"
    for name in ("attn", "attn2"):
        yield from _attention(f"{image}.{name}", at=f"{block}.{name}", names=("to_{}", "to_out.0", "norm_{}"))
    names = ("add_{}_proj", "to_add_out", "norm_added_{}")
    yield from _attention(f"{text}.attn", at=f"{block}.attn", names=names)
    for at, norm, mlp in ((image, "norm1", "ff"), (text, "norm1_context", "ff_context")):
        swapped = is_last and at == text
        yield Layer(original=f"{at}.adaLN_modulation.1", diffusers=(f"{block}.{norm}.linear",), swapped=swapped)
        yield Layer(original=f"{at}.mlp.fc1", diffusers=(f"{block}.{mlp}.net.0.proj",))
        yield Layer(original=f"{at}.mlp.fc2", diffusers=(f"{block}.{mlp}.net.2",))


def _attention(original: str, *, at: str, names: tuple[str, str, str]) -> Iterator[Layer]:
    project, out, norm = names
    yield Layer(original=f"{original}.qkv", diffusers=tuple(f"{at}.{project.format(each)}" for each in "qkv"))
    yield Layer(original=f"{original}.proj", diffusers=(f"{at}.{out}",))
    for each in "qk":
        yield Layer(original=f"{original}.ln_{each}", diffusers=(f"{at}.{norm.format(each)}",))


def count_of(names: Mapping[str, object]) -> int:
    """The number of blocks, by the names of tensors in either layout."""
    starts = ("transformer_blocks.", "joint_blocks.")
    return 1 + max((int(name.split(".")[1]) for name in names if name.startswith(starts)), default=-1)


def to_original(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A transformer's tensors by the original names, without prefix; raises ModelError for unknown tensors."""
    left, found = dict(tensors), {}
    for kind in KINDS:
        for layer in layers(count=count_of(tensors)):
            if layer.diffusers[0] + kind in left:
                pieces = [_taken(left, name + kind) for name in layer.diffusers]
                found[layer.original + kind] = joined(pieces, swapped=layer.swapped)
    found[POSITIONS[0]] = _taken(left, POSITIONS[1])
    _nothing_left(left)
    return found


def to_diffusers(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A transformer's tensors by diffusers' names; `tensors` without prefix. Raises ModelError as `to_original`."""
    left, found = dict(tensors), {}
    for kind in KINDS:
        for layer in layers(count=count_of(tensors)):
            if layer.original + kind in left:
                whole = _taken(left, layer.original + kind)
                if not whole.shape or whole.shape[0] % (2 if layer.swapped else len(layer.diffusers)):
                    raise ModelError(f"The transformer has {layer.original}{kind} as {list(whole.shape)}: no SD3 has.")
                pieces = split(whole, count=len(layer.diffusers), swapped=layer.swapped)
                found |= zip((name + kind for name in layer.diffusers), pieces, strict=True)
    found[POSITIONS[1]] = _taken(left, POSITIONS[0])
    _nothing_left(left)
    return found


def joined(pieces: list[LazyTensor], *, swapped: bool) -> LazyTensor:
    """Concatenate tensors along rows, with the halves of the result swapped if `swapped`."""
    if len(pieces) == 1 and not swapped:
        return pieces[0]
    rows = sum(piece.shape[0] for piece in pieces)

    def make() -> Tensor:
        whole = torch.cat([piece.make() for piece in pieces])
        return with_halves_swapped(whole) if swapped else whole

    return LazyTensor(dtype=pieces[0].dtype, shape=(rows, *pieces[0].shape[1:]), make=make)


def split(whole: LazyTensor, *, count: int, swapped: bool) -> list[LazyTensor]:
    """The inverse of `joined`: `count` tensors of equal size."""
    if count == 1 and not swapped:
        return [whole]

    def piece(number: int) -> Tensor:
        tensor = with_halves_swapped(whole.make()) if swapped else whole.make()
        return tensor.chunk(count)[number]

    shape = (whole.shape[0] // count, *whole.shape[1:])
    return [
        LazyTensor(dtype=whole.dtype, shape=shape, make=lambda number=number: piece(number)) for number in range(count)
    ]


def with_halves_swapped(tensor: Tensor) -> Tensor:
    """Swap shift and scale, in either direction."""
    return torch.cat(tensor.chunk(2)[::-1])


def _taken(left: dict[str, LazyTensor], name: str) -> LazyTensor:
    if name not in left:
        raise ModelError(f"The transformer lacks the tensor {name}, which every SD3 has.")
    return left.pop(name)


def _nothing_left(left: Mapping[str, LazyTensor]) -> None:
    if left:
        raise ModelError(f"The transformer has a tensor {min(left)}, which is unknown in SD3.")
