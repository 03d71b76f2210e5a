"""From the files that one program writes to those that another opens, numbers and provenance carried over."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.family import ModelFamily, ModelParts
from helpers.models.formats.lora import (
    Pair,
    is_diffusers_lora,
    merged,
    of_transformer,
    read_diffusers_lora,
    with_additions,
    write_diffusers_lora,
)
from helpers.models.formats.lycoris import is_lycoris, read_lycoris
from helpers.models.formats.modelspec import DIFFUSERS, ORIGINAL, carried_over
from helpers.models.formats.safetensors import Planned, all_opened, opened, write_tensors


@dataclass(frozen=True, kw_only=True)
class Model:
    """A whole model that is open: a denoiser's tensors by diffusers' names, the other parts, and its header.

    text: a LoRA that is still to be merged into the text encoders.
    """

    weights: Mapping[str, Planned]
    parts: ModelParts
    header: Mapping[str, str]
    text: Mapping[str, Pair] = field(default_factory=dict)

    def write_pipeline(self, folder: Path, *, family: ModelFamily) -> None:
        """As a folder that diffusers opens; `folder` is there and empty."""
        header = carried_over(self.header, implementation=DIFFUSERS, is_adapter=False)
        family.write_pipeline(self.weights, self.parts, folder, text=self.text, metadata=header)

    def write_single_file(self, path: Path, *, family: ModelFamily, with_text_encoders: bool = False) -> None:
        """As one file in the original layout."""
        header = carried_over(self.header, implementation=ORIGINAL, is_adapter=False)
        family.files.write_single_file(
            self.weights, self.parts, path, text=self.text, metadata=header, with_text_encoders=with_text_encoders
        )


@contextmanager
def opened_model(source: Path, *, base: ModelParts | None, family: ModelFamily) -> Iterator[Model]:
    """A folder in diffusers layout; a file in the original one, `base` lending what it lacks; or a LoRA and its base.

    Raises ModelError for anything else, and where a base is needed or does not fit.
    """
    if source.is_dir():
        parts = family.locate(ModelOptions(pretrained_model_name_or_path=str(source)))
        with family.files.open_base(parts) as (weights, header):
            yield Model(weights=weights, parts=parts, header=header)
        return
    names = _names(source)
    if base is None:
        raise ModelError(f"{source} is not a whole model: name the base model that goes with it.")
    if family.files.is_single_file(names):
        with family.files.open_single_file(source) as (weights, header), family.files.open_base(base) as (own, _):
            _same_shapes(source, weights, own, base=base)
            yield Model(weights=weights, parts=family.files.with_own_parts(source, base), header=header)
    elif is_lycoris(names):
        with family.files.open_base(base) as (weights, _), opened(source) as file:
            adapter = read_lycoris(source, base=weights)
            yield Model(weights=with_additions(weights, adapter), parts=base, header=file.metadata() or {})
    else:
        pairs, header = read_lora(source, family=family)
        with family.files.open_base(base) as (weights, _):
            mine = of_transformer(pairs)
            text = {layer: pair for layer, pair in pairs.items() if layer not in mine}
            yield Model(weights=merged(weights, mine), parts=base, header=header, text=text)


def read_lora(path: Path, *, family: ModelFamily) -> tuple[dict[str, Pair], Mapping[str, str]]:
    """A LoRA in either program's names, by diffusers' layers, and its header; raises ModelError for anything else."""
    with opened(path) as file:
        header = file.metadata() or {}
    names = _names(path)
    if is_diffusers_lora(names):
        return read_diffusers_lora(path), header
    if family.files.is_comfyui_lora(names):
        return family.files.read_comfyui_lora(path), header
    raise ModelError(f"{path} is neither a LoRA nor a model in the original layout: it holds {min(names, default='')}.")


def pairs_of(path: Path, *, family: ModelFamily) -> dict[str, Pair]:
    """See `read_lora`."""
    return read_lora(path, family=family)[0]


def to_diffusers_lora(source: Path, path: Path, *, family: ModelFamily) -> None:
    """Write a LoRA as diffusers opens it."""
    pairs, header = read_lora(source, family=family)
    write_diffusers_lora(path, pairs, metadata=carried_over(header, implementation=DIFFUSERS, is_adapter=True))


def to_comfyui_lora(source: Path, path: Path, *, base: ModelParts | None, family: ModelFamily) -> None:
    """Write a LoRA as ComfyUI and kohya's programs open it; of a DoRA the base is needed. Raises ModelError.

    A LyCORIS has the names that ComfyUI knows already.
    """
    if is_lycoris(_names(source)):
        with all_opened([source]) as (tensors, said):
            metadata = carried_over(said, implementation=DIFFUSERS, is_adapter=True)
            write_tensors(path, tensors, metadata=metadata)
        return
    pairs, header = read_lora(source, family=family)
    metadata = carried_over(header, implementation=ORIGINAL, is_adapter=True)
    with family.files.open_base(base) if base else nullcontext(({}, {})) as (weights, _):
        family.files.write_comfyui_lora(path, pairs, base=weights, metadata=metadata)


def _names(path: Path) -> list[str]:
    with opened(path) as file:
        return list(file.keys())


def _same_shapes(source: Path, weights: Mapping[str, Planned], own: Mapping[str, Planned], *, base: ModelParts) -> None:
    """Raise ModelError where a file is of another kind of model than the base whose configuration it would be given."""
    odd = sorted(weights.keys() ^ own.keys()) or [name for name in weights if weights[name].shape != own[name].shape]
    if odd:
        raise ModelError(f"{source} is another kind of model than {base.name}, {base.variant}: see its {odd[0]}.")
