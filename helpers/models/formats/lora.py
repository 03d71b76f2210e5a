"""A LoRA apart from any model: its pairs of matrices, the file that diffusers opens, and what it adds to weights."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import Planned, opened, planned_from, write_tensors

# Diffusers reads the adapter's configuration from this entry of the file's header; keys of tensors it does not know,
# such as `.alpha`, make it refuse the file.
DIFFUSERS_ENTRY = "lora_adapter_metadata"
EXPORT_PREFIX = "transformer."
TEXT_PREFIXES = ("text_encoder.", "text_encoder_2.")
PREFIXES = (EXPORT_PREFIX, *TEXT_PREFIXES)
DOWN, UP, MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What a LoRA adds to one layer: (alpha / rank) up @ down, of down [rank, inputs] and up [outputs, rank].

    magnitude: of a DoRA the length [outputs] that each row of the sum has in the end.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the layer's weight: outputs, inputs."""
        return (self.up.shape[0], self.down.shape[1])

    def multiplied(self) -> "Pair":
        """The same with alpha / rank multiplied into `up`, in fp32, so that alpha is the rank."""
        return replace(self, down=self.down.float(), up=self.up.float() * (self.alpha / self.rank), alpha=self.rank)

    def delta(self) -> Tensor:
        """What is added to the layer's weight [outputs, inputs], in fp32."""
        return self.up.float() @ self.down.float() * (self.alpha / self.rank)

    def merged_into(self, weight: Tensor) -> Tensor:
        """The layer's weight [outputs, inputs] with this in it, in fp32.

        W + (alpha / rank) B A (Hu et al. 2021, section 4.1); its rows brought to their lengths (Liu et al. 2024,
        equation 5) where there are any.
        """
        total = weight.float() + self.delta()
        if self.magnitude is None:
            return total
        return total * (self.magnitude.float() / lengths(total)).unsqueeze(1)


def lengths(weight: Tensor) -> Tensor:
    """Of each row of a weight [outputs, inputs], in fp32."""
    return torch.linalg.vector_norm(weight.float(), dim=1)


def is_diffusers_lora(names: Iterable[str]) -> bool:
    """Whether tensors with these names are a LoRA as diffusers writes it."""
    return any(name.endswith(DOWN) for name in names)


def read_diffusers_lora(path: Path) -> dict[str, Pair]:
    """The pairs in a file with diffusers' keys, by layer; alpha is the rank where its header says nothing.

    A text encoder's layers have its name before them, the transformer's nothing.
    """
    with opened(path) as file:
        said = json.loads((file.metadata() or {}).get(DIFFUSERS_ENTRY, "{}"))
        tensors = {name: each.make() for name, each in planned_from(file).items()}
    found = {}
    for name in [name for name in tensors if name.startswith(PREFIXES) and name.endswith(DOWN)]:
        whole = name.removesuffix(DOWN)
        prefix, layer = _parted(whole)
        down, up = tensors.pop(name), tensors.pop(whole + UP, None)
        if up is None:
            raise ModelError(f"{path} holds only one half of its LoRA on {layer}.")
        magnitude = tensors.pop(whole + MAGNITUDE, None)
        alpha = said.get(f"{prefix}alpha_pattern", {}).get(layer, said.get(f"{prefix}lora_alpha", down.shape[0]))
        more = down.shape[0] ** 0.5 if said.get(f"{prefix}use_rslora") else 1.0
        found[whole.removeprefix(EXPORT_PREFIX)] = Pair(
            down=down, up=up, alpha=float(alpha) * more, magnitude=magnitude
        )
    refuse_the_rest(path, tensors)
    return found


def _parted(name: str) -> tuple[str, str]:
    """The prefix of a tensor or layer, with its dot, and the rest."""
    prefix, dot, layer = name.partition(".")
    return prefix + dot, layer


def refuse_the_rest(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ModelError if something in the file was not understood: left out, it would draw other images."""
    if tensors:
        raise ModelError(
            f"{path} holds {min(tensors)}, which is no part of a plain LoRA on SD3's transformer: nothing else can be "
            "converted yet."
        )


def write_diffusers_lora(path: Path, pairs: Mapping[str, Pair], *, metadata: Mapping[str, str]) -> None:
    """Write the file that diffusers opens, in fp32, alpha multiplied in for programs that do not read its header."""
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
            ranks = {layer: pair.rank for layer, pair in mine.items()}
            use_dora = any(pair.magnitude is not None for pair in mine.values())
            entries |= json.loads(header_entry(ranks, use_dora=use_dora, prefix=prefix))
    write_tensors(path, tensors, metadata={**metadata, DIFFUSERS_ENTRY: json.dumps(entries, sort_keys=True)})


def of_transformer(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Those of the transformer's layers."""
    return {layer: pair for layer, pair in pairs.items() if not layer.startswith(TEXT_PREFIXES)}


def of_text_encoder(pairs: Mapping[str, Pair], prefix: str) -> dict[str, Pair]:
    """Those of the text encoder with that prefix, by its own names of its layers."""
    return {layer.removeprefix(prefix): pair for layer, pair in pairs.items() if layer.startswith(prefix)}


def header_entry(
    ranks: Mapping[str, int],
    *,
    alphas: Mapping[str, float] | None = None,
    use_dora: bool = False,
    use_rslora: bool = False,
    prefix: str = EXPORT_PREFIX,
) -> str:
    """What the header tells diffusers of an adapter by the ranks of its layers; alphas are the ranks unless said."""
    alphas = alphas or ranks
    rank, _ = Counter(ranks.values()).most_common(1)[0]
    config: dict[str, Any] = {
        "r": rank,
        "lora_alpha": next(alphas[layer] for layer, each in ranks.items() if each == rank),
        "target_modules": list(ranks),
        "use_dora": use_dora,
        "use_rslora": use_rslora,
    }
    if odd := {layer: each for layer, each in ranks.items() if each != rank}:
        config |= {"rank_pattern": odd, "alpha_pattern": {layer: alphas[layer] for layer in odd}}
    return json.dumps({prefix + name: value for name, value in config.items()}, sort_keys=True)


class Addition(Protocol):
    """What an adapter of any kind adds to one tensor, of `shape`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def merged_into(self, weight: Tensor) -> Tensor:
        """The tensor with it in it, in fp32."""
        ...


def merged(base: Mapping[str, Planned], pairs: Mapping[str, Pair]) -> dict[str, Planned]:
    """The base's tensors with a LoRA in them, see `with_additions`."""
    return with_additions(base, {f"{layer}.weight": pair for layer, pair in pairs.items()})


def with_additions(base: Mapping[str, Planned], additions: Mapping[str, Addition]) -> dict[str, Planned]:
    """The base's tensors with what is added to some of them, estimated in fp32 and rounded once, to each one's format.

    Raises ModelError where the base has no such tensor.
    """
    found = dict(base)
    for name, addition in additions.items():
        if name not in found or found[name].shape != addition.shape:
            raise ModelError(f"The LoRA is for {name}, which the base model has not in that shape: name its own base.")
        found[name] = _merged_into(found[name], addition)
    return found


def _merged_into(weight: Planned, pair: Addition) -> Planned:
    def make() -> Tensor:
        return pair.merged_into(weight.make()).to(weight.dtype)

    return Planned(dtype=weight.dtype, shape=weight.shape, make=make)


def columns_in_use(pieces: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Of each piece the columns that are not all zero, as a mask."""
    return (torch.any(piece != 0, dim=0) for piece in pieces)
