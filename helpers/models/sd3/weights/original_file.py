"""One file in the original layout as the parts in it: which it holds, and each one's tensors by diffusers' names.

A part that lies in a file has a place below it, `FILE/vae`, as it would have one in a folder.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import Opened, Planned, all_opened
from helpers.models.sd3.weights import original_keys as original_layout
from helpers.models.sd3.weights import original_text, original_vae

TRANSFORMER, VAE = "transformer", "vae"
PREFIXES = {TRANSFORMER: original_layout.PREFIX, VAE: original_vae.PREFIX, **original_text.PREFIXES}
TELLING = "joint_blocks.0."

EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE = "scale_weight"
ABOUT_EIGHT_BITS = (SCALE, "scale_input", "scaled_fp8")

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
    return any(name.removeprefix(original_layout.PREFIX).startswith(TELLING) for name in names)


def parts_in(path: Path) -> tuple[str, ...]:
    """The parts that a file holds; raises ModelError where it holds no SD3, or what no SD3 has."""
    with all_opened([path]) as (tensors, _):
        names = sorted(tensors)
    if not is_single_file(names):
        raise ModelError(f"{path} holds no SD3 in the original layout{_what_else(names)}.")
    if not any(name.startswith(original_layout.PREFIX) for name in names):
        return (TRANSFORMER,)
    odd = [name for name in names if not name.startswith((*PREFIXES.values(), *original_text.SAY_NOTHING))]
    if odd:
        raise ModelError(f"{path} holds {odd[0]}, which no file of SD3 has that this program knows.")
    return tuple(part for part, prefix in PREFIXES.items() if any(name.startswith(prefix) for name in names))


@contextmanager
def open_in_file(path: Path, part: str) -> Iterator[Opened]:
    """A part's tensors by diffusers' names, and the file's header; raises ModelError for what is none of SD3.

    Weights of 8 bits are there in bfloat16, which holds them exactly; a scale is multiplied in, rounding once.
    """
    with all_opened([path]) as (tensors, said):
        names = names_of_part(tensors, part)
        mine = in_sixteen_bits({ours: tensors[theirs] for theirs, ours in names.items()})
        try:
            found = _to_diffusers(mine, part)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        yield found, said


def names_of_part(names: Iterable[str], part: str) -> dict[str, str]:
    """A file's names of a part's tensors, and the same without prefix; a file of nothing else has none."""
    names = tuple(names)
    prefix = PREFIXES[part]
    if part == TRANSFORMER and not any(name.startswith(prefix) for name in names):
        prefix = ""
    return {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def in_sixteen_bits(tensors: Mapping[str, Planned]) -> dict[str, Planned]:
    """The same tensors, those of 8 bits in bfloat16 with their scales in them."""
    found = {}
    for name, each in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf not in ABOUT_EIGHT_BITS:
            found[name] = _widened(each, tensors.get(f"{layer}.{SCALE}")) if each.dtype in EIGHT_BITS else each
    return found


def _widened(tensor: Planned, scale: Planned | None) -> Planned:
    def make() -> Tensor:
        wide = tensor.make().float()
        return (wide if scale is None else wide * scale.make().float()).to(torch.bfloat16)

    return Planned(dtype=torch.bfloat16, shape=tensor.shape, make=make)


def _to_diffusers(tensors: Mapping[str, Planned], part: str) -> dict[str, Planned]:
    if part == TRANSFORMER:
        return original_layout.to_diffusers(tensors)
    return original_vae.vae_to_diffusers(tensors) if part == VAE else original_text.text_to_diffusers(tensors, part)


def _what_else(names: list[str]) -> str:
    known = (what for start, what in OTHERS.items() if any(name.startswith(start) for name in names))
    if any(".lora_" in name or name.endswith(".alpha") for name in names):
        known = iter((OTHERS["lora_"],))
    if what := next(known, None):
        return f": it is {what}"
    return f" ({original_layout.PREFIX}{TELLING}...), but tensors such as {min(names, default='none')}"
