"""Converts LyCORIS full differences to the original layout's names for ComfyUI; other kinds are unchanged.

ComfyUI reads diffusers' names for the weights of LoKr, LoHa and LoRA. It reads a full difference, `.diff` and `.diff_b`
for the bias, only under the name of one complete layer of the original.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from helpers.models.formats.lycoris import BIAS, FULL
from helpers.models.formats.lycoris import PREFIX as LYCORIS
from helpers.models.formats.safetensors import LazyTensor
from helpers.models.sd3.weights.comfyui_lora import MOST_BLOCKS, PREFIX, is_swapped
from helpers.models.sd3.weights.original.keys import joined, layers

(WEIGHT,) = FULL
ALPHA = "alpha"


def has_full_differences(names: Iterable[str]) -> bool:
    """Whether tensors with these names are a LyCORIS with full differences, which `to_comfyui_lycoris` renames."""
    return any(name.startswith(LYCORIS) and name.endswith(f".{WEIGHT}") for name in names)


def to_comfyui_lycoris(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Rename the tensors of a LyCORIS on diffusers' layers for ComfyUI.

    If the original has queries, keys and values in one layer, those without a full difference get zeros.
    """
    left, found = dict(tensors), {}
    for layer in layers(count=MOST_BLOCKS):
        pieces = [_taken(left, name) for name in layer.diffusers]
        weights, biases = ([piece.get(part) for piece in pieces] for part in (WEIGHT, BIAS))
        first = next((each for each in weights if each), None)
        if first is None:
            continue
        rows, inputs = first.shape[0], first.shape[1]
        swapped = is_swapped(layer, outputs=rows, inputs=inputs)
        flat = PREFIX + layer.original.replace(".", "_")
        found[f"{flat}.{WEIGHT}"] = joined([each or _zeros(first) for each in weights], swapped=swapped)
        if (bias := next((each for each in biases if each), None)) is not None:
            found[f"{flat}.{BIAS}"] = joined([each or _zeros(bias) for each in biases], swapped=swapped)
    return left | found


def _taken(left: dict[str, LazyTensor], name: str) -> dict[str, LazyTensor]:
    """Remove a layer's full difference from `left`, and return its tensors by their suffixes."""
    flat = LYCORIS + name.replace(".", "_")
    if f"{flat}.{WEIGHT}" not in left:
        return {}
    return {part: left.pop(f"{flat}.{part}") for part in (WEIGHT, BIAS, ALPHA) if f"{flat}.{part}" in left}


def _zeros(like: LazyTensor) -> LazyTensor:
    def make() -> Tensor:
        return like.make().mul(0)

    return LazyTensor(dtype=like.dtype, shape=like.shape, make=make)
