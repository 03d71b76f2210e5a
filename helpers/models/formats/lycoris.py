"""What LyCORIS's adapters add to weights, read from their file: to merge them, apart from any model and library."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import Planned, opened, planned_from

PREFIX = "lycoris_"
LOKR = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"})
LOHA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
LORA = frozenset({"lora_up.weight", "lora_down.weight"})
FULL, BIAS = frozenset({"diff"}), "diff_b"
KINDS = (LOKR, LOHA, LORA, FULL)


@dataclass(frozen=True, kw_only=True)
class Lycoris:
    """What is added to one tensor of `shape`, by the names that its own tensors have in the file."""

    tensors: Mapping[str, Tensor]
    shape: tuple[int, ...]

    def merged_into(self, weight: Tensor) -> Tensor:
        """The tensor with this in it, in fp32."""
        return weight.float() + _difference({name: each.float() for name, each in self.tensors.items()})


def is_lycoris(names: Iterable[str]) -> bool:
    """Whether tensors with these names are what LyCORIS writes."""
    return any(name.startswith(PREFIX) for name in names)


def read_lycoris(path: Path, *, base: Mapping[str, Planned]) -> dict[str, Lycoris]:
    """What is added, by the names of `base`; raises ModelError for a layer, or a kind of adapter, that is not known."""
    by_flat_name = {
        PREFIX + name.removesuffix(".weight").replace(".", "_"): name.removesuffix(".weight") for name in base
    }
    with opened(path) as file:
        tensors = {name: each.make() for name, each in planned_from(file).items()}
    by_layer: dict[str, dict[str, Tensor]] = {}
    for name, each in tensors.items():
        flat, _, part = name.partition(".")
        if flat not in by_flat_name:
            raise ModelError(f"{path} holds {name}, a layer that the base model has not: name its own base.")
        by_layer.setdefault(by_flat_name[flat], {})[part] = each
    for layer, parts in by_layer.items():
        if not any(parts.keys() - {"alpha", BIAS} <= kind for kind in KINDS):
            raise ModelError(f"{path} holds {min(parts)} for {layer}: such a LyCORIS cannot be merged yet.")
    found: dict[str, Lycoris] = {}
    for layer, parts in by_layer.items():
        if BIAS in parts:
            found[f"{layer}.bias"] = Lycoris(tensors={"diff": parts.pop(BIAS)}, shape=base[f"{layer}.bias"].shape)
        found[f"{layer}.weight"] = Lycoris(tensors=parts, shape=base[f"{layer}.weight"].shape)
    return found


def _difference(said: Mapping[str, Tensor]) -> Tensor:
    """Of a layer [outputs, inputs]: Yeh et al. 2023 (arXiv 2309.14859), section 3, as the library estimates it."""
    if "diff" in said:
        return said["diff"]
    if "lora_up.weight" in said:
        return _scaled(said["lora_up.weight"] @ said["lora_down.weight"], said, rank=len(said["lora_down.weight"]))
    if "hada_w1_a" in said:
        first, second = (said[f"hada_w{number}_a"] @ said[f"hada_w{number}_b"] for number in (1, 2))
        return _scaled(first * second, said, rank=len(said["hada_w1_b"]))
    ranks = [len(said[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in said]
    first, second = (
        said[f"lokr_w{number}"] if f"lokr_w{number}" in said else said[f"lokr_w{number}_a"] @ said[f"lokr_w{number}_b"]
        for number in (1, 2)
    )
    product = torch.kron(first, second)
    return _scaled(product, said, rank=ranks[0]) if ranks else product


def _scaled(product: Tensor, said: Mapping[str, Tensor], *, rank: int) -> Tensor:
    return product * (float(said["alpha"]) / rank) if "alpha" in said else product
