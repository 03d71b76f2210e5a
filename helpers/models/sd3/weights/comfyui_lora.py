"""Writes a LoRA with the original layout's names for ComfyUI and kohya's programs; `lora_forms` reads them.

ComfyUI reads `lora_unet_` and the original layer's name with underscores, then `.lora_down.weight`, `.lora_up.weight`
and `.alpha`. For the original's joint layer of queries, keys and values, the three LoRAs are concatenated.
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
    """Write a LoRA on diffusers' layers to a file with the original names, in fp32.

    base: for a DoRA, the transformer's tensors by diffusers' names. Raises ModelError if they are missing.
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
    """ComfyUI's scale [outputs, 1] for the rows of W + B A, which it first divides by the row norms of W.

    DoRA divides by the row norms of W + B A (Liu et al. 2024, equation 5), so the scale is m |W| / |W + B A|. A row
    without DoRA gets |W|, which does not change it.
    """
    columns = [_row_lengths(name, pairs.get(name), base=base) for name in layer.diffusers]
    inputs = base[f"{layer.diffusers[0]}.weight"].shape[1]
    return _reordered(layer, torch.cat(columns).unsqueeze(1), inputs=inputs)


def _row_lengths(name: str, pair: Pair | None, *, base: Mapping[str, LazyTensor]) -> Tensor:
    if f"{name}.weight" not in base:
        raise ModelError(f"The LoRA is a DoRA, and ComfyUI's scale of {name} depends on the base: name the base, too.")
    weight = base[f"{name}.weight"].make()
    if pair is None or pair.magnitude is None:
        return lengths(weight)
    return lengths(weight) * pair.magnitude.float() / lengths(weight.float() + pair.delta())


def comfyui_scales(pairs: Mapping[str, Pair], *, base: Mapping[str, LazyTensor]) -> dict[str, Tensor]:
    """ComfyUI's scale [outputs, 1] for each magnitude of a DoRA in diffusers' names, by layer.

    See `_dora_scale`. ComfyUI itself splits queries, keys and values, but not the two halves that it swaps.
    """
    found = {}
    for layer in _layers_of(pairs):
        for name in layer.diffusers:
            if (pair := pairs.get(name)) is not None and pair.magnitude is not None:
                column = _row_lengths(name, pair, base=base).unsqueeze(1)
                found[name] = _reordered(layer, column, inputs=pair.shape[1])
    return found


def to_original_pairs(pairs: Mapping[str, Pair]) -> dict[str, Pair]:
    """Convert a LoRA on diffusers' layers to the original's layers."""
    return {layer.original: _joined(layer, pairs) for layer in _layers_of(pairs)}


def _layers_of(pairs: Mapping[str, Pair]) -> Iterator[Layer]:
    """The original's layers that have the LoRA."""
    for layer in layers(count=max(MOST_BLOCKS, count_of(pairs))):
        if any(name in pairs for name in layer.diffusers):
            yield layer


def _joined(layer: Layer, pairs: Mapping[str, Pair]) -> Pair:
    """One pair for a layer: downs concatenated along rows, ups block-diagonal."""
    if len(layer.diffusers) == 1:
        pair = pairs[layer.diffusers[0]]
        return replace(pair, down=pair.down.float(), up=_reordered(layer, pair.up.float(), inputs=pair.shape[1]))
    there = {place: pairs[name] for place, name in enumerate(layer.diffusers) if name in pairs}
    if len(shapes := {pair.shape for pair in there.values()}) > 1 or len(next(iter(shapes))) > 2:
        raise ModelError(f"The LoRA is not for SD3: {', '.join(layer.diffusers)} differ in shape.")
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
    """Split a pair into those of diffusers' layers; each with its own columns if none are shared, else with all.

    Pieces without effect are left out. Raises ModelError if the pair cannot be split.
    """
    if len(layer.diffusers) > 1 and (pair.input_magnitude is not None or pair.up.shape[0] % len(layer.diffusers)):
        raise ModelError(f"the LoRA on {layer.original} cannot be split into {', '.join(layer.diffusers)}.")
    inputs = pair.down.shape[1]
    pieces = _reordered(layer, pair.up, inputs=inputs).chunk(len(layer.diffusers))
    lengths_of: tuple[Tensor | None, ...] = tuple(None for _ in pieces)
    if pair.magnitude is not None:
        lengths_of = _reordered(layer, pair.magnitude, inputs=inputs).chunk(len(pieces))
    masks = list(columns_in_use(pieces))
    own = len(masks) > 1 and any(mask.any() for mask in masks) and bool((torch.stack(masks).sum(dim=0) <= 1).all())
    found = {}
    for name, up, mask, magnitude in zip(layer.diffusers, pieces, masks, lengths_of, strict=True):
        columns = mask if own and (mask.any() or magnitude is None) else torch.ones_like(mask)
        if columns.any():
            alpha = pair.alpha * int(columns.sum()) / pair.rank
            found[name] = replace(pair, down=pair.down[columns], up=up[:, columns], alpha=alpha, magnitude=magnitude)
    return found


def _reordered(layer: Layer, up: Tensor, *, inputs: int) -> Tensor:
    """`up` [outputs, …] with shift and scale swapped, if the original has them in the other order."""
    return with_halves_swapped(up) if is_swapped(layer, outputs=up.shape[0], inputs=inputs) else up


def is_swapped(layer: Layer, *, outputs: int, inputs: int) -> bool:
    """Whether the original has a layer's two halves in the other order.

    The text stream's last block is recognized by its size, since an adapter does not show the number of blocks.
    """
    is_last = layer.original.endswith(LAST) and outputs == 2 * inputs
    return is_last or layer.original.startswith("final_layer.ada")
