"""The components in one file, and their tensors by diffusers' names.

A file is a complete SD3 in the original layout, with a prefix for each component, or a single component, as text
encoders and VAEs are often distributed. A component's place is `FILE/vae`, as in a folder.
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
"""What ComfyUI writes next to 8-bit weights: the names until 2025 and the current ones."""

CALLED = {TRANSFORMER: "transformer", VAE: "VAE", **original_text.CALLED}

OTHERS = {
    "lora_": "a LoRA, not a model: set MODEL_NAME to its base, and --init_lora to this file",
    "transformer.": "a LoRA or a component in diffusers' names, not a complete model: name its base, or its folder",
    "model.diffusion_model.input_blocks.": "a Stable Diffusion 1, 2 or XL; this program trains SD3 and SD3.5 only",
    "double_blocks.": "a Flux model; this program trains SD3 and SD3.5 only",
    "model.diffusion_model.double_blocks.": "a Flux model; this program trains SD3 and SD3.5 only",
    "transformer_blocks.": "the transformer of a folder in diffusers layout: name the parent of its folder",
}
"""Descriptions of other files, by the prefix of a tensor's name."""


def is_single_file(names: Iterable[str]) -> bool:
    """Whether tensors with these names are an SD3 in the original layout, with or without its prefix."""
    return any(name.removeprefix(original_keys.PREFIX).startswith(TELLING) for name in names)


def parts_in(path: Path) -> tuple[str, ...]:
    """The components in a file; raises ModelError for a file without an SD3, or with unknown tensors."""
    with open_all([path]) as (tensors, _):
        names = sorted(tensors)
    if not is_single_file(names):
        raise ModelError(f"{path} is not an SD3 in the original layout{_what_else(names)}.")
    if not any(name.startswith(original_keys.PREFIX) for name in names):
        return (TRANSFORMER,)
    odd = [name for name in names if not name.startswith((*PREFIXES.values(), *original_text.SAY_NOTHING))]
    if odd:
        raise ModelError(f"{path} holds {odd[0]}, which is unknown in files of SD3.")
    return tuple(part for part, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in names))


def check_component(path: Path, part: str) -> None:
    """Raise ModelError if a file does not contain that component, with what it contains instead."""
    with open_all([path]) as (tensors, _):
        shapes = {name: each.shape for name, each in tensors.items()}
    inside = _components(shapes)
    if part in inside:
        return
    held = " and ".join(CALLED[each] for each in inside) or f"tensors such as {min(shapes, default='none')}"
    raise ModelError(f"{path} contains no {CALLED[part]} of a known kind, but {held}.")


def _components(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The components in a file: by the prefixes of a complete SD3, or a single component without prefix."""
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
    """A component's tensors by diffusers' names, and the file's metadata; raises ModelError for unknown tensors.

    8-bit weights become bfloat16, which holds them exactly; a scale is multiplied in, rounded once.
    """
    with open_all([path]) as (tensors, metadata):
        names = names_of_part(tensors, part)
        try:
            mine = in_sixteen_bits({ours: tensors[theirs] for theirs, ours in names.items()})
            found = _to_diffusers(mine, part)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        yield found, metadata


def names_of_part(names: Iterable[str], part: str) -> dict[str, str]:
    """Maps the names of a component's tensors in a file to names without prefix; single components have no prefix."""
    names = tuple(names)
    prefix = PREFIXES[part]
    if not any(name.startswith(prefix) for name in names):
        prefix = ""
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def in_sixteen_bits(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors with 8-bit ones in bfloat16, scales multiplied in; raises ModelError for other quantized dtypes."""
    found = {}
    for name, each in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and not each.dtype.is_floating_point:
            raise ModelError(f"{name} is quantized to {each.dtype}, which is not supported: use the fp16 or fp8 file.")
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
