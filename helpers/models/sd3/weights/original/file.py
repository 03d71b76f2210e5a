"""One file as the components in it: which it holds, and each one's tensors by diffusers' names.

A whole SD3 in the original layout, with a prefix before each component's names, or a component by itself, as text
encoders and VAEs are passed on. A component in a file has a place below it, `FILE/vae`, as it would have in a folder.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor, Opened, open_all
from helpers.models.sd3.weights.original import keys as original_keys
from helpers.models.sd3.weights.original import text as original_text
from helpers.models.sd3.weights.original import vae as original_vae

TRANSFORMER, VAE = "transformer", "vae"
PREFIXES = {TRANSFORMER: original_keys.PREFIX, VAE: original_vae.PREFIX, **original_text.PREFIXES}
TELLING = "joint_blocks.0."

EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = ("scale_weight", "weight_scale")
ABOUT_EIGHT_BITS = (*SCALES, "scale_input", "input_scale", "scaled_fp8", "comfy_quant")
"""What ComfyUI writes beside weights of 8 bits: the names until 2025, and those since."""

CALLED = {TRANSFORMER: "transformer", VAE: "VAE", **original_text.CALLED}

OTHERS = {
    "lora_": "a LoRA, which MODEL_NAME cannot be: name the base that it was trained on, and it with --init_lora",
    "transformer.": "a LoRA or a part in diffusers' names, not a whole model: name its base, or its folder",
    "model.diffusion_model.input_blocks.": "a Stable Diffusion 1, 2 or XL; this program trains SD3 and SD3.5 only",
    "double_blocks.": "a Flux model; this program trains SD3 and SD3.5 only",
    "model.diffusion_model.double_blocks.": "a Flux model; this program trains SD3 and SD3.5 only",
    "transformer_blocks.": "the transformer of a folder in diffusers layout: name the folder above the one it lies in",
}
"""What else a file may be, by how the name of one of its tensors begins."""


def is_single_file(names: Iterable[str]) -> bool:
    """Whether tensors with these names are an SD3 in the original layout, its prefix there or not."""
    return any(name.removeprefix(original_keys.PREFIX).startswith(TELLING) for name in names)


def parts_in(path: Path) -> tuple[str, ...]:
    """The parts that a file holds; raises ModelError where it holds no SD3, or what no SD3 has."""
    with open_all([path]) as (tensors, _):
        names = sorted(tensors)
    if not is_single_file(names):
        raise ModelError(f"{path} holds no SD3 in the original layout{_what_else(names)}.")
    if not any(name.startswith(original_keys.PREFIX) for name in names):
        return (TRANSFORMER,)
    odd = [name for name in names if not name.startswith((*PREFIXES.values(), *original_text.SAY_NOTHING))]
    if odd:
        raise ModelError(f"{path} holds {odd[0]}, which no file of SD3 has that this program knows.")
    return tuple(part for part, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in names))


def check_component(path: Path, part: str) -> None:
    """Raise ModelError where a file does not hold that component, with what it holds instead."""
    with open_all([path]) as (tensors, _):
        shapes = {name: each.shape for name, each in tensors.items()}
    inside = _components(shapes)
    if part in inside:
        return
    held = " and ".join(CALLED[each] for each in inside) or f"tensors such as {min(shapes, default='none')}"
    raise ModelError(f"{path} holds no {CALLED[part]} that this program knows, but {held}.")


def _components(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Which components a file holds: by the prefixes of a whole SD3, or the one that it is without any."""
    prefixed = tuple(part for part, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in shapes))
    if prefixed:
        return prefixed
    if is_single_file(shapes):
        return (TRANSFORMER,)
    if any(name.startswith((original_vae.DIFFUSERS_BLOCKS, original_vae.ORIGINAL_BLOCKS)) for name in shapes):
        return (VAE,)
    return original_text.encoders_in(shapes)


@contextmanager
def open_in_file(path: Path, part: str) -> Iterator[Opened]:
    """A part's tensors by diffusers' names, and the file's header; raises ModelError for what is none of SD3.

    Weights of 8 bits are there in bfloat16, which holds them exactly; a scale is multiplied in, rounding once.
    """
    with open_all([path]) as (tensors, said):
        names = names_of_part(tensors, part)
        try:
            mine = in_sixteen_bits({ours: tensors[theirs] for theirs, ours in names.items()})
            found = _to_diffusers(mine, part)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        yield found, said


def names_of_part(names: Iterable[str], part: str) -> dict[str, str]:
    """A file's names of a part's tensors, and the same without prefix; a file of nothing else has none."""
    names = tuple(names)
    prefix = PREFIXES[part]
    if not any(name.startswith(prefix) for name in names):
        prefix = ""
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def in_sixteen_bits(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The same tensors, those of 8 bits in bfloat16 with their scales in them; raises ModelError for other formats."""
    found = {}
    for name, each in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and not each.dtype.is_floating_point:
            raise ModelError(f"{name} is quantized to {each.dtype}, which is not read: take the fp16 or fp8 file.")
        if leaf not in ABOUT_EIGHT_BITS:
            scales = [tensors[f"{layer}.{scale}"] for scale in SCALES if f"{layer}.{scale}" in tensors]
            found[name] = _widened(each, *scales[:1]) if each.dtype in EIGHT_BITS else each
    return found


def _widened(tensor: LazyTensor, *scales: LazyTensor) -> LazyTensor:
    def make() -> Tensor:
        wide = tensor.make().float()
        for scale in scales:
            wide = wide * scale.make().float()
        return wide.to(torch.bfloat16)

    return LazyTensor(dtype=torch.bfloat16, shape=tensor.shape, make=make, stored=(tensor, *scales))


def _to_diffusers(tensors: Mapping[str, LazyTensor], part: str) -> dict[str, LazyTensor]:
    if part == TRANSFORMER:
        return original_keys.to_diffusers(tensors)
    return original_vae.vae_to_diffusers(tensors) if part == VAE else original_text.text_to_diffusers(tensors, part)


def _what_else(names: list[str]) -> str:
    known = (what for start, what in OTHERS.items() if any(name.startswith(start) for name in names))
    if any(".lora_" in name or name.endswith(".alpha") for name in names):
        known = iter((OTHERS["lora_"],))
    if what := next(known, None):
        return f": it is {what}"
    return f" ({original_keys.PREFIX}{TELLING}...), but tensors such as {min(names, default='none')}"
