"""A LyCORIS as ComfyUI reads all of it: full differences by the original's layers, every other kind as it is.

ComfyUI knows diffusers' names of the weights of LoKr, LoHa and LoRA. Of a full difference it reads `.diff` and, for the
bias, `.diff_b`, and both only where a name stands for one whole layer of the original.
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
    """Whether tensors with these names are a LyCORIS with a part that `to_comfyui_lycoris` gives other names."""
    return any(name.startswith(LYCORIS) and name.endswith(f".{WEIGHT}") for name in names)


def to_comfyui_lycoris(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of a LyCORIS on diffusers' layers by ComfyUI's names.

    Where the original has queries, keys and values in one layer, those that have no full difference get zeros.
    """
    left, found = dict(tensors), {}
    for layer in layers(count=MOST_BLOCKS):
        pieces = [_taken(left, name) for name in layer.diffusers]
        weights, biases = ([piece.get(part) for piece in pieces] for part in (WEIGHT, BIAS))
        whole = next((each for each in weights if each), None)
        if whole is None:
            continue
        rows, inputs = whole.shape[0], whole.shape[1]
        swapped = is_swapped(layer, outputs=rows, inputs=inputs)
        flat = PREFIX + layer.original.replace(".", "_")
        found[f"{flat}.{WEIGHT}"] = joined([each or _zeros(whole) for each in weights], swapped=swapped)
        if (bias := next((each for each in biases if each), None)) is not None:
            found[f"{flat}.{BIAS}"] = joined([each or _zeros(bias) for each in biases], swapped=swapped)
    return left | found


def _taken(left: dict[str, LazyTensor], name: str) -> dict[str, LazyTensor]:
    """The full difference of a layer by its parts, which are taken away from what is left."""
    flat = LYCORIS + name.replace(".", "_")
    if f"{flat}.{WEIGHT}" not in left:
        return {}
    return {part: left.pop(f"{flat}.{part}") for part in (WEIGHT, BIAS, ALPHA) if f"{flat}.{part}" in left}


def _zeros(like: LazyTensor) -> LazyTensor:
    def make() -> Tensor:
        return like.make().mul(0)

    return LazyTensor(dtype=like.dtype, shape=like.shape, make=make)
