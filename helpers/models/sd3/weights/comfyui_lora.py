"""A LoRA in the original layout's names, as ComfyUI and kohya's programs write and read it: both ways.

ComfyUI takes `lora_unet_` and the original layer's name with underscores, then `.lora_down.weight`, `.lora_up.weight`
and `.alpha`. Where the original has one layer for queries, keys and values, its LoRA is the three side by side.
Text encoders are `lora_te1_` (CLIP-L) and `lora_te2_` (CLIP-G), with transformers' names. A DoRA has a `.dora_scale`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.lora import Pair, columns_in_use, lengths, of_text_encoder, of_transformer, refuse_the_rest
from helpers.models.formats.safetensors import Planned, opened, planned_from, write_tensors
from helpers.models.sd3.weights.original_keys import Layer, count_of, layers, with_halves_swapped

PREFIX = "lora_unet_"
DOWN, UP, ALPHA, SCALE = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
TEXT_ENCODERS = {"lora_te1_": "text_encoder.", "lora_te2_": "text_encoder_2."}
TEXT_LAYER = re.compile(r"text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)")
MOST_BLOCKS = 64
LAST = "context_block.adaLN_modulation.1"


def is_comfyui_lora(names: Iterable[str]) -> bool:
    """Whether tensors with these names are a LoRA of this kind."""
    return any(name.startswith((PREFIX, *TEXT_ENCODERS)) for name in names)


def write_comfyui_lora(
    path: Path, pairs: Mapping[str, Pair], *, base: Mapping[str, Planned], metadata: Mapping[str, str]
) -> None:
    """Write the LoRA on diffusers' layers as a file with the original names, in fp32.

    base: of a DoRA, the transformer's tensors by diffusers' names. Raises ModelError where they are needed and missing.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, mine in _by_prefix(pairs).items():
        for name, pair in mine.items():
            flat = prefix + name.replace(".", "_")
            tensors |= {flat + DOWN: pair.down, flat + UP: pair.up, flat + ALPHA: torch.tensor(float(pair.alpha))}
    for layer in _layers_of(pairs):
        if any(pairs[name].magnitude is not None for name in layer.diffusers if name in pairs):
            tensors[PREFIX + layer.original.replace(".", "_") + SCALE] = _dora_scale(layer, pairs, base=base)
    write_tensors(path, tensors, metadata=metadata)


def _by_prefix(pairs: Mapping[str, Pair]) -> dict[str, dict[str, Pair]]:
    found = {PREFIX: to_original_pairs(of_transformer(pairs))}
    return found | {flat: of_text_encoder(pairs, prefix) for flat, prefix in TEXT_ENCODERS.items()}


def _dora_scale(layer: Layer, pairs: Mapping[str, Pair], *, base: Mapping[str, Planned]) -> Tensor:
    """What ComfyUI multiplies the rows [outputs, 1] of W + B A with, after it has divided them by those of W.

    DoRA divides by the rows of W + B A (Liu et al. 2024, equation 5), so both lengths are in this: m |W| / |W + B A|. A
    row that has no DoRA gets |W|, which leaves it as it is.
    """
    columns = []
    for name in layer.diffusers:
        if f"{name}.weight" not in base:
            raise ModelError(
                f"The LoRA is a DoRA, and what ComfyUI needs of {name} depends on the base: name that, too."
            )
        weight, pair = base[f"{name}.weight"].make(), pairs.get(name)
        column = lengths(weight)
        if pair is not None and pair.magnitude is not None:
            column = column * pair.magnitude / lengths(weight.float() + pair.delta())
        columns.append(column)
    inputs = base[f"{layer.diffusers[0]}.weight"].shape[1]
    return _turned(layer, torch.cat(columns).unsqueeze(1), inputs=inputs)


def read_comfyui_lora(path: Path) -> dict[str, Pair]:
    """The LoRA of such a file, by diffusers' layers; raises ModelError where it holds anything else."""
    with opened(path) as file:
        tensors = {name: each.make() for name, each in planned_from(file).items()}
    found: dict[str, Pair] = {}
    for layer in layers(count=MOST_BLOCKS):
        pair = _taken(tensors, PREFIX + layer.original.replace(".", "_"))
        found |= _split(layer, pair) if pair else {}
    for flat, layer in _text_layers(tensors).items():
        pair = _taken(tensors, flat)
        found |= {layer: pair} if pair else {}
    refuse_the_rest(path, tensors)
    return found


def _taken(tensors: dict[str, Tensor], flat: str) -> Pair | None:
    """The pair of a layer, which is taken away from what is left; None where the file has none."""
    if flat + DOWN not in tensors or flat + UP not in tensors:
        return None
    down, up = tensors.pop(flat + DOWN).float(), tensors.pop(flat + UP).float()
    return Pair(down=down, up=up, alpha=float(tensors.pop(flat + ALPHA, torch.tensor(down.shape[0]))))


def _text_layers(names: Iterable[str]) -> dict[str, str]:
    """The text encoders' layers among tensors' names: diffusers' name of each by the flat one."""
    found = {}
    for name in names:
        for flat, prefix in TEXT_ENCODERS.items():
            if name.startswith(flat) and (layer := TEXT_LAYER.fullmatch(name.removeprefix(flat).partition(".")[0])):
                found[flat + layer[0]] = f"{prefix}text_model.encoder.layers.{layer[1]}.{layer[2]}.{layer[3]}"
    return found


def to_original_pairs(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """A LoRA on diffusers' layers as one on the original's."""
    return {layer.original: _joined(layer, pairs) for layer in _layers_of(pairs)}


def _layers_of(pairs: Mapping[str, Pair]) -> Iterator[Layer]:
    """The original's layers that the LoRA is on."""
    for layer in layers(count=max(MOST_BLOCKS, count_of(pairs))):
        if any(name in pairs for name in layer.diffusers):
            yield layer


def _joined(layer: Layer, pairs: Mapping[str, Pair]) -> Pair:
    """One pair for all of a layer: downs one below the other, ups in blocks along the diagonal."""
    there = {place: pairs[name] for place, name in enumerate(layer.diffusers) if name in pairs}
    strengths = {pair.alpha / pair.rank for pair in there.values()}
    if len(strengths) > 1:
        there, strengths = {place: pair.multiplied() for place, pair in there.items()}, {1.0}
    rank = sum(pair.rank for pair in there.values())
    rows = next(iter(there.values())).up.shape[0]
    up = torch.zeros(rows * len(layer.diffusers), rank)
    column = 0
    for place, pair in there.items():
        up[place * rows : (place + 1) * rows, column : column + pair.rank] = pair.up
        column += pair.rank
    down = torch.cat([pair.down.float() for pair in there.values()])
    return Pair(down=down, up=_turned(layer, up, inputs=down.shape[1]), alpha=strengths.pop() * rank)


def _split(layer: Layer, pair: Pair) -> dict[str, Pair]:
    """The pairs of diffusers' layers; each with its own columns where no two share one, else with all of them."""
    pieces = _turned(layer, pair.up, inputs=pair.down.shape[1]).chunk(len(layer.diffusers))
    masks = list(columns_in_use(pieces))
    own = len(masks) > 1 and any(mask.any() for mask in masks) and bool((torch.stack(masks).sum(dim=0) <= 1).all())
    found = {}
    for name, up, mask in zip(layer.diffusers, pieces, masks, strict=True):
        columns = mask if own else torch.ones_like(mask)
        if columns.any():
            rank = int(columns.sum())
            found[name] = Pair(down=pair.down[columns], up=up[:, columns], alpha=pair.alpha * rank / pair.rank)
    return found


def _turned(layer: Layer, up: Tensor, *, inputs: int) -> Tensor:
    """`up` with shift and scale changed about where the original has them so: in the last block of the text that is
    told by its size, since nothing else in a LoRA tells how many blocks the model has."""
    is_last = layer.original.endswith(LAST) and up.shape[0] == 2 * inputs
    return with_halves_swapped(up) if is_last or layer.original.startswith("final_layer.ada") else up
