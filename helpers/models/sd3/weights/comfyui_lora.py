"""A LoRA in the original layout's names, as ComfyUI and kohya's programs read it; `lora_forms` reads them.

ComfyUI takes `lora_unet_` and the original layer's name with underscores, then `.lora_down.weight`, `.lora_up.weight`
and `.alpha`. Where the original has one layer for queries, keys and values, its LoRA is the three side by side.
Text encoders are `lora_te1_` (CLIP-L) and `lora_te2_` (CLIP-G), with transformers' names. A DoRA has a `.dora_scale`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.lora import Pair, columns_in_use, lengths, of_text_encoder, of_transformer
from helpers.models.formats.safetensors import LazyTensor, write_tensors
from helpers.models.sd3.weights.original.keys import Layer, count_of, layers, with_halves_swapped

PREFIX = "lora_unet_"
DOWN, UP, ALPHA, SCALE = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
TEXT_ENCODERS = {"lora_te1_": "text_encoder.", "lora_te2_": "text_encoder_2."}
MOST_BLOCKS = 64
LAST = "context_block.adaLN_modulation.1"


def write_comfyui_lora(
    path: Path, pairs: Mapping[str, Pair], *, base: Mapping[str, LazyTensor], metadata: Mapping[str, str]
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


def _dora_scale(layer: Layer, pairs: Mapping[str, Pair], *, base: Mapping[str, LazyTensor]) -> Tensor:
    """What ComfyUI multiplies the rows [outputs, 1] of W + B A with, after it has divided them by those of W.

    DoRA divides by the rows of W + B A (Liu et al. 2024, equation 5), so both lengths are in this: m |W| / |W + B A|. A
    row that has no DoRA gets |W|, which leaves it as it is.
    """
    columns = [_row_lengths(name, pairs.get(name), base=base) for name in layer.diffusers]
    inputs = base[f"{layer.diffusers[0]}.weight"].shape[1]
    return _turned(layer, torch.cat(columns).unsqueeze(1), inputs=inputs)


def _row_lengths(name: str, pair: Pair | None, *, base: Mapping[str, LazyTensor]) -> Tensor:
    if f"{name}.weight" not in base:
        raise ModelError(f"The LoRA is a DoRA, and what ComfyUI needs of {name} depends on the base: name that, too.")
    weight = base[f"{name}.weight"].make()
    if pair is None or pair.magnitude is None:
        return lengths(weight)
    return lengths(weight) * pair.magnitude.float() / lengths(weight.float() + pair.delta())


def comfyui_scales(pairs: Mapping[str, Pair], *, base: Mapping[str, LazyTensor]) -> dict[str, Tensor]:
    """What ComfyUI needs beside each magnitude of a DoRA in diffusers' names, [outputs, 1] by layer.

    See `_dora_scale`. ComfyUI takes queries, keys and values apart itself, but not the two halves that it swaps.
    """
    found = {}
    for layer in _layers_of(pairs):
        for name in layer.diffusers:
            if (pair := pairs.get(name)) is not None and pair.magnitude is not None:
                column = _row_lengths(name, pair, base=base).unsqueeze(1)
                found[name] = _turned(layer, column, inputs=pair.shape[1])
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
    if len(layer.diffusers) == 1:
        pair = pairs[layer.diffusers[0]]
        return replace(pair, down=pair.down.float(), up=_turned(layer, pair.up.float(), inputs=pair.shape[1]))
    there = {place: pairs[name] for place, name in enumerate(layer.diffusers) if name in pairs}
    if len(shapes := {pair.shape for pair in there.values()}) > 1 or len(next(iter(shapes))) > 2:
        raise ModelError(f"The LoRA is on no SD3: its {', '.join(layer.diffusers)} are not of one shape.")
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
    return Pair(down=down, up=up, alpha=strengths.pop() * rank)


def split_pair(layer: Layer, pair: Pair) -> dict[str, Pair]:
    """The pairs of diffusers' layers; each with its own columns where no two share one, else with all of them.

    A piece that changes nothing is left out. Raises ModelError where the pair cannot be taken apart.
    """
    if len(layer.diffusers) > 1 and (pair.input_magnitude is not None or pair.up.shape[0] % len(layer.diffusers)):
        raise ModelError(f"the LoRA on {layer.original} cannot be divided into {', '.join(layer.diffusers)}.")
    inputs = pair.down.shape[1]
    pieces = _turned(layer, pair.up, inputs=inputs).chunk(len(layer.diffusers))
    lengths_of: tuple[Tensor | None, ...] = tuple(None for _ in pieces)
    if pair.magnitude is not None:
        lengths_of = _turned(layer, pair.magnitude, inputs=inputs).chunk(len(pieces))
    masks = list(columns_in_use(pieces))
    own = len(masks) > 1 and any(mask.any() for mask in masks) and bool((torch.stack(masks).sum(dim=0) <= 1).all())
    found = {}
    for name, up, mask, magnitude in zip(layer.diffusers, pieces, masks, lengths_of, strict=True):
        columns = mask if own and (mask.any() or magnitude is None) else torch.ones_like(mask)
        if columns.any():
            alpha = pair.alpha * int(columns.sum()) / pair.rank
            found[name] = replace(pair, down=pair.down[columns], up=up[:, columns], alpha=alpha, magnitude=magnitude)
    return found


def _turned(layer: Layer, up: Tensor, *, inputs: int) -> Tensor:
    """`up` [outputs, …] with shift and scale changed about where the original has them so."""
    return with_halves_swapped(up) if is_swapped(layer, outputs=up.shape[0], inputs=inputs) else up


def is_swapped(layer: Layer, *, outputs: int, inputs: int) -> bool:
    """Whether the original has a layer's two halves the other way round.

    In the last block of the text its size tells, since nothing else in an adapter tells how many blocks the model has.
    """
    is_last = layer.original.endswith(LAST) and outputs == 2 * inputs
    return is_last or layer.original.startswith("final_layer.ada")
