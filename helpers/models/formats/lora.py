"""A LoRA without a model: its pairs of matrices, diffusers' file format, and merging into weights."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor, write_tensors

# Diffusers reads the adapter's configuration from this entry of the file's header; it rejects files with unknown
# tensors, such as `.alpha`.
DIFFUSERS_ENTRY = "lora_adapter_metadata"
EXPORT_PREFIX = "transformer."
TEXT_PREFIXES = ("text_encoder.", "text_encoder_2.")
PREFIXES = (EXPORT_PREFIX, *TEXT_PREFIXES)
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
# A DoRA's scale for ComfyUI, next to the magnitude: see `conversions.add_comfyui_scales`. Diffusers ignores it.
COMFYUI_SCALE = ".dora_scale"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A LoRA on one layer: it adds (alpha / rank) up @ down, with down [rank, inputs] and up [outputs, rank].

    For a convolution, down is [rank, inputs, height, width] and up [outputs, rank, 1, 1].
    magnitude: for a DoRA, the norm [outputs] of each row of the merged weight.
    input_magnitude: for OneTrainer's DoRA, which normalizes columns, the norm [inputs] of each column.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    input_magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the layer's weight: outputs, inputs, and the kernel of a convolution."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def is_dora(self) -> bool:
        """Whether it has magnitudes for rows or columns."""
        return self.magnitude is not None or self.input_magnitude is not None

    def multiplied(self) -> "Pair":
        """The same with alpha / rank multiplied into `up`, in fp32, so that alpha is the rank."""
        return replace(self, down=self.down.float(), up=self.up.float() * (self.alpha / self.rank), alpha=self.rank)

    def delta(self) -> Tensor:
        """What is added to the layer's weight [outputs, inputs, ...], in fp32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1) * (self.alpha / self.rank)
        return product.reshape(self.shape)

    def merged_into(self, weight: Tensor) -> Tensor:
        """The layer's weight [outputs, inputs, ...] with the LoRA merged in, in fp32.

        W + (alpha / rank) B A (Hu et al. 2021, section 4.1), rows or columns scaled to any magnitudes (Liu et al. 2024,
        equation 5).
        """
        total = weight.float() + self.delta()
        if self.input_magnitude is not None:
            columns = total.transpose(0, 1)
            return (columns * _per_row(self.input_magnitude.float() / lengths(columns), columns)).transpose(0, 1)
        if self.magnitude is None:
            return total
        return total * _per_row(self.magnitude.float() / lengths(total), total)


def lengths(weight: Tensor) -> Tensor:
    """The norm of each row of a weight [outputs, ...], in fp32."""
    return torch.linalg.vector_norm(weight.float().flatten(1), dim=1)


def _per_row(factors: Tensor, weight: Tensor) -> Tensor:
    """`factors` [outputs], reshaped to multiply the rows of `weight` [outputs, ...]."""
    return factors.reshape(-1, *(1 for _ in weight.shape[1:]))


def _parted(name: str) -> tuple[str, str]:
    """Split a name into its first segment, with the dot, and the rest."""
    prefix, dot, layer = name.partition(".")
    return prefix + dot, layer


def write_diffusers_lora(path: Path, pairs: Mapping[str, Pair], *, metadata: Mapping[str, str]) -> None:
    """Write a file for diffusers, in fp32, with alpha multiplied in for programs that do not read its header."""
    plain = {layer: pair.multiplied() for layer, pair in pairs.items()}
    tensors, entries = {}, {}
    for prefix, mine in (
        (EXPORT_PREFIX, of_transformer(plain)),
        *((each, of_text_encoder(plain, each)) for each in TEXT_PREFIXES),
    ):
        for layer, pair in mine.items():
            tensors |= {prefix + layer + DOWN: pair.down, prefix + layer + UP: pair.up}
            if pair.magnitude is not None:
                tensors[prefix + layer + MAGNITUDE] = pair.magnitude
        if mine:
            ranks = dict.fromkeys(mine, max(pair.rank for pair in mine.values()))
            use_dora = any(pair.magnitude is not None for pair in mine.values())
            entries |= json.loads(header_entry(ranks, use_dora=use_dora, prefix=prefix))
    content = of_one_rank(tensors)
    write_tensors(path, content, metadata={**metadata, DIFFUSERS_ENTRY: json.dumps(entries, sort_keys=True)})


def of_one_rank(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A LoRA's tensors by diffusers' keys, every layer padded with zeros to the largest rank of its component.

    The merged weights stay exactly the same if alpha equals the rank everywhere. Diffusers before 0.34 does not read
    the header, and uses the most common rank as the alpha of every layer.
    """
    ranks: dict[str, int] = {}
    for name, tensor in tensors.items():
        if name.endswith(DOWN):
            prefix, _ = _parted(name)
            ranks[prefix] = max(ranks.get(prefix, 0), len(tensor))

    def padded(name: str, tensor: Tensor) -> Tensor:
        rank = ranks.get(_parted(name)[0], 0)
        if name.endswith(DOWN):
            return torch.nn.functional.pad(tensor, (*(0, 0) * (tensor.dim() - 1), 0, rank - len(tensor)))
        if name.endswith(UP):
            return torch.nn.functional.pad(tensor, (*(0, 0) * (tensor.dim() - 2), 0, rank - tensor.shape[1]))
        return tensor

    return {name: padded(name, tensor) for name, tensor in tensors.items()}


def of_transformer(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """The pairs on the transformer's layers."""
    return {layer: pair for layer, pair in pairs.items() if not layer.startswith(TEXT_PREFIXES)}


def of_text_encoder(pairs: Mapping[str, Pair], prefix: str) -> dict[str, Pair]:
    """The pairs on the text encoder with that prefix, by layer names without the prefix."""
    return {layer.removeprefix(prefix): pair for layer, pair in pairs.items() if layer.startswith(prefix)}


def header_entry(
    ranks: Mapping[str, int],
    *,
    alphas: Mapping[str, float] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    prefix: str = EXPORT_PREFIX,
) -> str:
    """The header entry that describes an adapter for diffusers, by its layers' ranks; alphas default to the ranks."""
    alphas = alphas or ranks
    rank, _ = Counter(ranks.values()).most_common(1)[0]
    odd = {layer: each for layer, each in ranks.items() if each != rank}
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": next(alphas[layer] for layer, each in ranks.items() if each == rank),
        "target_modules": list(ranks),
        "use_dora": use_dora,
        "use_rslora": use_rslora,
        # Diffusers 0.34 to 0.39 raise KeyError for a header without them.
        "rank_pattern": odd,
        "alpha_pattern": {layer: alphas[layer] for layer in odd},
    }
    return json.dumps({prefix + name: value for name, value in config.items()}, sort_keys=True)


class WeightDelta(Protocol):
    """The addition of any kind of adapter to one tensor of `shape`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def merged_into(self, weight: Tensor) -> Tensor:
        """The tensor with the addition merged in, in fp32."""
        ...


def merged(base: Mapping[str, LazyTensor], pairs: Mapping[str, Pair]) -> dict[str, LazyTensor]:
    """The base's tensors with a LoRA merged in, see `apply_deltas`."""
    return apply_deltas(base, {f"{layer}.weight": pair for layer, pair in pairs.items()})


def apply_deltas(base: Mapping[str, LazyTensor], additions: Mapping[str, WeightDelta]) -> dict[str, LazyTensor]:
    """The base's tensors with the additions merged in, computed in fp32 and rounded once to each tensor's dtype.

    Raises ModelError if the base has no such tensor.
    """
    found = dict(base)
    for name, addition in additions.items():
        if name not in found or found[name].shape != addition.shape:
            there = f"{list(found[name].shape)}" if name in found else "no such tensor"
            raise ModelError(
                f"The LoRA is for another model: it changes {name} {list(addition.shape)}, but the base model has "
                f"{there} there. Name the base model that it was trained on."
            )
        found[name] = _merged_into(found[name], addition)
    return found


def _merged_into(weight: LazyTensor, pair: WeightDelta) -> LazyTensor:
    def make() -> Tensor:
        return pair.merged_into(weight.make()).to(weight.dtype)

    return LazyTensor(dtype=weight.dtype, shape=weight.shape, make=make)


def columns_in_use(pieces: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """For each piece [outputs, rank, ...], a mask [rank] of the columns that are not all zero."""
    return ((piece != 0).transpose(0, 1).flatten(1).any(dim=1) for piece in pieces)
