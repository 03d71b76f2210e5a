"""Reads LyCORIS adapters from their files to merge them into weights, without a model or the library."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor, opened, planned_from

PREFIX = "lycoris_"
LOKR = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"})
LOHA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
LORA = frozenset({"lora_up.weight", "lora_down.weight"})
FULL_DIFFERENCE, BIAS, ALPHA = "diff", "diff_b", "alpha"
FULL = frozenset({FULL_DIFFERENCE})
KINDS = (LOKR, LOHA, LORA, FULL)


@dataclass(frozen=True, kw_only=True)
class Lycoris:
    """An addition to one tensor of `shape`; `tensors` by their names in the file."""

    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]

    def merged_into(self, weight: Tensor) -> Tensor:
        """The tensor with the addition merged in, in fp32; a convolution's kernel is flattened in the file."""
        return weight.float() + _difference(self.tensors).reshape(self.shape)


def is_lycoris(names: Iterable[str]) -> bool:
    """Whether tensors with these names are a LyCORIS adapter."""
    return any(name.startswith(PREFIX) for name in names)


def read_lycoris(path: Path, *, base: Mapping[str, LazyTensor]) -> dict[str, Lycoris]:
    """The additions, by the names of `base`; raises ModelError for an unknown layer or kind of adapter."""
    by_flat_name = {
        PREFIX + name.removesuffix(".weight").replace(".", "_"): name.removesuffix(".weight") for name in base
    }
    with opened(path) as file:
        tensors = {name: each.make() for name, each in planned_from(file).items()}
    for name, each in tensors.items():
        if not (each.dtype.is_floating_point and each.numel() and (each.dim() or name.endswith(f".{ALPHA}"))):
            raise ModelError(f"{path} holds {name} as {each.dtype} {list(each.shape)}, which is invalid.")
    by_layer: dict[str, dict[str, Tensor]] = {}
    for name, each in tensors.items():
        flat, _, part = name.partition(".")
        if flat not in by_flat_name:
            raise ModelError(
                f"{path} holds {name}, a layer that the base model does not have: name the base that it was trained on."
            )
        by_layer.setdefault(by_flat_name[flat], {})[part] = each
    for layer, parts in by_layer.items():
        if not any(parts.keys() - {ALPHA, BIAS} <= kind for kind in KINDS):
            raise ModelError(f"{path} holds {min(parts)} for {layer}: this kind of LyCORIS cannot be merged.")
    found: dict[str, Lycoris] = {}
    for layer, parts in by_layer.items():
        if BIAS in parts:
            bias = {FULL_DIFFERENCE: parts.pop(BIAS)}
            found[f"{layer}.bias"] = _of_shape(path, f"{layer}.bias", bias, base=base)
        if parts.keys() - {ALPHA}:
            found[f"{layer}.weight"] = _of_shape(path, f"{layer}.weight", parts, base=base)
    return found


def _of_shape(path: Path, name: str, tensors: Mapping[str, Tensor], *, base: Mapping[str, LazyTensor]) -> Lycoris:
    """The addition to one tensor of the base; raises ModelError if its shape differs or it is incomplete."""
    if name not in base:
        raise ModelError(
            f"{path} changes {name}, which the base model does not have: name the base that it was trained on."
        )
    try:
        shape = tuple(_difference({key: each.to("meta") for key, each in tensors.items()}).shape)
    except (RuntimeError, IndexError, KeyError) as error:
        shapes = ", ".join(f"{key} {list(each.shape)}" for key, each in tensors.items())
        raise ModelError(f"{path} holds {shapes} for {name}, which do not fit together: is it complete?") from error
    wanted = base[name].shape
    if shape not in (wanted, (wanted[0], math.prod(wanted[1:]))):
        raise ModelError(
            f"{path} is for another model: it changes {name} as {list(shape)}, but the base model has {list(wanted)} "
            "there. Name the base that it was trained on."
        )
    return Lycoris(tensors=tensors, shape=wanted)


def _difference(tensors: Mapping[str, Tensor]) -> Tensor:
    """The difference [outputs, inputs] in fp32: Yeh et al. 2023 (arXiv 2309.14859), section 3, as the library does it.

    For a convolution [outputs, inputs, height, width], or with the last three dimensions flattened.
    """
    values = {name: each.float() for name, each in tensors.items()}
    if FULL_DIFFERENCE in values:
        return values[FULL_DIFFERENCE]
    if "lora_up.weight" in values:
        up, down = (values[f"lora_{each}.weight"].flatten(1) for each in ("up", "down"))
        return _scaled(up @ down, values, rank=len(down))
    if any(name in LOHA for name in values):
        first, second = (values[f"hada_w{number}_a"] @ values[f"hada_w{number}_b"] for number in (1, 2))
        return _scaled(first * second, values, rank=len(values["hada_w1_b"]))
    ranks = [len(values[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in values]
    first, second = (
        values[f"lokr_w{number}"]
        if f"lokr_w{number}" in values
        else values[f"lokr_w{number}_a"] @ values[f"lokr_w{number}_b"]
        for number in (1, 2)
    )
    product = torch.kron(first[(..., *(None for _ in second.shape[first.dim() :]))], second)
    return _scaled(product, values, rank=ranks[0]) if ranks else product


def _scaled(product: Tensor, values: Mapping[str, Tensor], *, rank: int) -> Tensor:
    return product * (values[ALPHA].double().reshape(()) / rank) if ALPHA in values else product
