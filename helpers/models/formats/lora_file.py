"""Reads LoRA files of any program: identifies each tensor, and checks that they fit together.

Programs differ in how they name layers (`LoraForm`) and matrices (`WORDS`).
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.lora import DIFFUSERS_ENTRY, EXPORT_PREFIX, Pair
from helpers.models.formats.modelspec import PREFIX as MODELSPEC
from helpers.models.formats.safetensors import opened, planned_from

WORDS = {
    "down": r"lora_(?:A|down)(?:\.[^.]+)?\.weight",
    "up": r"lora_(?:B|up)(?:\.[^.]+)?\.weight",
    "magnitude": r"lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?",
    "scale": r"dora_scale",
    "alpha": r"alpha",
}
"""The part of a tensor's name after the layer's name; peft puts the adapter's name in between."""

NAME = re.compile(rf"(?P<layer>.+)\.(?:{'|'.join(f'(?P<{word}>{pattern})' for word, pattern in WORDS.items())})")
MATRICES = ("down", "up")
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class LoraForm:
    """How a program names the layers of a LoRA.

    name: for messages. starts: maps a prefix of names to diffusers' prefix of the component, such as `transformer.`;
    the rest of a name is the layer's.
    """

    name: str
    starts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class LayerName:
    """A layer's name in a file: diffusers' prefix of the `component`, and the `layer` after the file's prefix."""

    form: LoraForm
    component: str
    layer: str


def part_of(name: str) -> tuple[str, str] | None:
    """The layer that a tensor belongs to, and its key in `WORDS`; None for a tensor that is not part of a LoRA."""
    found = NAME.fullmatch(name)
    return (found["layer"], str(found.lastgroup)) if found else None


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors with these names include a LoRA matrix."""
    return any((part := part_of(name)) is not None and part[1] in MATRICES for name in names)


def layer_name(full_name: str, forms: Sequence[LoraForm]) -> LayerName | None:
    """A layer's name by the longest matching prefix of any form; None if none matches."""
    starts = [(start, component, form) for form in forms for start, component in form.starts.items()]
    fitting = [each for each in starts if full_name.startswith(each[0])]
    if not fitting:
        return None
    start, component, form = max(fitting, key=lambda each: len(each[0]))
    return LayerName(form=form, component=component, layer=full_name.removeprefix(start))


def read_pairs(path: Path, forms: Sequence[LoraForm], *, original: str) -> list[tuple[LayerName, Pair]]:
    """The pairs of a file whose tensors all belong to a LoRA in one of the `forms`.

    original: the family's `FamilyFacts.original_implementation`, which this program's own files for ComfyUI name.
    Raises ModelError for other tensors, incomplete pairs, and invalid shapes, dtypes or values.
    """
    with opened(path) as file:
        header = file.metadata() or {}
        tensors = {name: each.make() for name, each in planned_from(file).items()}
    by_layer: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part = part_of(name)
        if part is None:
            raise ModelError(f"{path} holds {name}, which is not part of a LoRA that can be read.")
        layer, word = part
        if word in by_layer.setdefault(layer, {}):
            raise ModelError(f"{path} holds {name} twice under different names.")
        by_layer[layer][word] = tensor
    config = _config(path, header)
    is_original = header.get(f"{MODELSPEC}implementation") == original
    found = []
    for full_name, parts in by_layer.items():
        name = layer_name(full_name, forms)
        if name is None:
            raise ModelError(f"{path} holds a LoRA on {full_name}, with unknown names.")
        matrices = _matrices(path, full_name, parts)
        alpha = _alpha(path, full_name, parts, rank=len(matrices[0]), name=name, config=config)
        pair = Pair(down=matrices[0], up=matrices[1], alpha=alpha)
        found.append(
            (name, _without_padding(_with_lengths(path, full_name, parts, pair=pair, is_original=is_original)))
        )
    return found


def _matrices(path: Path, layer: str, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The two matrices in fp32: down [rank, inputs, ...] and up [outputs, rank, ...]."""
    lacking = [word for word in MATRICES if word not in parts]
    if lacking:
        raise ModelError(f"{path} has no `{lacking[0]}` matrix of its LoRA on {layer}; download it again.")
    down, up = (_floats(path, layer, parts[word]) for word in MATRICES)
    shapes = f"{list(down.shape)} and {list(up.shape)}"
    fits = down.dim() in (2, 4) and up.dim() == down.dim() and down.shape[0] == up.shape[1]
    if not fits or any(edge != 1 for edge in up.shape[2:]):
        raise ModelError(f"{path} holds matrices of {shapes} for {layer}, which do not form a LoRA.")
    return down, up


def _floats(path: Path, layer: str, tensor: Tensor) -> Tensor:
    """The tensor in fp32; raises ModelError if it is empty, not floating point, or not finite."""
    if not tensor.dtype.is_floating_point:
        raise ModelError(f"{path} holds values of dtype {tensor.dtype} for {layer}: a LoRA has floating point values.")
    values = tensor.float()
    if not values.numel():
        raise ModelError(f"{path} holds an empty tensor {list(values.shape)} for {layer}.")
    if not bool(torch.isfinite(values).all()):
        raise ModelError(f"{path} holds NaN or infinite values for {layer}: its training failed, use another file.")
    return values


def _with_lengths(path: Path, layer: str, parts: Mapping[str, Tensor], *, pair: Pair, is_original: bool) -> Pair:
    """The pair with a DoRA's magnitudes, which programs store for rows or for columns."""
    word = next((each for each in ("magnitude", "scale") if each in parts), None)
    if word is None:
        return pair
    # This program's own file for ComfyUI; next to a magnitude, the scale has the same information in ComfyUI's form.
    if word == "scale" and is_original:
        raise ModelError(
            f"{path} is a DoRA that was converted for ComfyUI and cannot be converted back: use the original file, "
            "such as pytorch_lora_weights.safetensors."
        )
    lengths = _floats(path, layer, parts[word])
    outputs, inputs = pair.shape[:2]
    if lengths.numel() == outputs and (word == "magnitude" or lengths.shape[:1] == (outputs,)):
        return replace(pair, magnitude=lengths.flatten())
    if word == "scale" and lengths.shape[:2] == (1, inputs) and lengths.numel() == inputs:
        return replace(pair, input_magnitude=lengths.flatten())
    raise ModelError(
        f"{path} holds DoRA magnitudes {list(lengths.shape)} for {layer}, which has {outputs} outputs and {inputs} "
        "inputs."
    )


def _without_padding(pair: Pair) -> Pair:
    """The pair without trailing ranks that are zero in both matrices, at the same strength."""
    used = torch.nonzero(pair.down.flatten(1).any(dim=1) | pair.up.transpose(0, 1).flatten(1).any(dim=1))
    rank = int(used.max()) + 1 if len(used) else pair.rank
    if rank == pair.rank:
        return pair
    return replace(pair, down=pair.down[:rank], up=pair.up[:, :rank], alpha=pair.alpha * rank / pair.rank)


def _alpha(
    path: Path, layer: str, parts: Mapping[str, Tensor], *, rank: int, name: LayerName, config: Mapping[str, Any]
) -> float:
    """The layer's alpha: its own tensor, else from the header or peft's config, else the rank."""
    if "alpha" in parts:
        if parts["alpha"].numel() != 1:
            raise ModelError(f"{path} holds an alpha {list(parts['alpha'].shape)} for {layer}: it must be one number.")
        return _number(path, f"the alpha of {layer}", parts["alpha"].item())
    patterns = config.get(f"{name.component}alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ModelError(f"{path} has a damaged header: its alpha_pattern is {patterns!r}.")
    of_layer = next((alpha for key, alpha in patterns.items() if _names(key, name.layer)), None)
    alpha = config.get(f"{name.component}lora_alpha", rank) if of_layer is None else of_layer
    root = math.sqrt(rank) if config.get(f"{name.component}use_rslora") else 1.0
    return _number(path, f"the alpha of {layer}", alpha) * root


def _names(pattern: str, layer: str) -> bool:
    """Whether one of peft's patterns matches a layer: a regular expression for the name or its end."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", layer) is not None
    except re.error:
        return layer == pattern


def _number(path: Path, what: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ModelError(f"{path} has {value!r} as {what}, which is not a number.")


def _config(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The adapter's configuration by diffusers' keys, from the header or from peft's adapter_config.json."""
    beside = path.with_name(PEFT_CONFIG)
    try:
        if DIFFUSERS_ENTRY in header:
            config = json.loads(header[DIFFUSERS_ENTRY])
        elif path.stem == "adapter_model" and beside.is_file():
            config = {EXPORT_PREFIX + key: value for key, value in json.loads(beside.read_text("utf-8")).items()}
        else:
            config = {}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} has a damaged adapter configuration: {error}; download it again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} has a damaged adapter configuration: {config!r}; download it again.")
    return config
