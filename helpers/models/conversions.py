"""Converts models and adapters between the file formats of different programs, and keeps their provenance."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.family import FamilyFacts, ModelComponents, ModelFamily
from helpers.models.formats.lora import (
    COMFYUI_SCALE,
    EXPORT_PREFIX,
    MAGNITUDE,
    Pair,
    apply_deltas,
    merged,
    of_transformer,
    write_diffusers_lora,
)
from helpers.models.formats.lora_file import is_lora
from helpers.models.formats.lycoris import is_lycoris, read_lycoris
from helpers.models.formats.modelspec import DIFFUSERS, carried_over
from helpers.models.formats.safetensors import (
    LazyTensor,
    open_all,
    opened,
    planned_from,
    with_hash_to_come,
    write_tensors,
)


@dataclass(frozen=True, kw_only=True)
class ConvertibleModel:
    """An opened model: the denoiser's tensors by diffusers' names, the other components, and its header.

    text: a LoRA to merge into the text encoders.
    """

    weights: Mapping[str, LazyTensor]
    parts: ModelComponents
    header: Mapping[str, str]
    text: Mapping[str, Pair] = field(default_factory=dict)

    def write_pipeline(self, folder: Path, *, family: ModelFamily) -> None:
        """Write a folder that diffusers opens; `folder` must exist and be empty."""
        header = _header_for(self.header, facts=family.facts, is_adapter=False)
        family.write_pipeline(self.weights, self.parts, folder, text=self.text, metadata=header)

    def write_single_file(self, path: Path, *, family: ModelFamily, with_text_encoders: bool = False) -> None:
        """Write one file in the original layout."""
        header = _header_for(self.header, facts=family.facts, is_adapter=False, original=True)
        family.formats.write_single_file(
            self.weights, self.parts, path, text=self.text, metadata=header, with_text_encoders=with_text_encoders
        )


def _header_for(
    header: Mapping[str, str], *, facts: FamilyFacts, is_adapter: bool, original: bool = False
) -> dict[str, str]:
    """See `carried_over`; original: whether the file has the family's original layout."""
    implementation = facts.original_implementation if original else DIFFUSERS
    return carried_over(header, architecture=facts.architecture, implementation=implementation, is_adapter=is_adapter)


@contextmanager
def opened_model(source: Path, *, base: ModelComponents | None, family: ModelFamily) -> Iterator[ConvertibleModel]:
    """Open a folder in diffusers layout, a file in the original layout (missing components from `base`), or a LoRA.

    Raises ModelError for anything else, or if a base is needed or does not fit.
    """
    if source.is_dir():
        parts = family.locate(ModelOptions(pretrained_model_name_or_path=str(source)))
        with family.formats.open_base(parts) as (weights, header):
            yield ConvertibleModel(weights=weights, parts=parts, header=header)
        return
    names = _names(source)
    is_model = not is_lora(names) and family.formats.is_single_file(names)
    if not (is_model or is_lora(names) or is_lycoris(names)):
        raise ModelError(
            f"{source} is neither an adapter nor an SD3 in the original layout: it is"
            f" {family.formats.what_it_is(names)}."
        )
    if base is None:
        raise ModelError(f"{source} is not a complete model: name its base model.")
    if is_model:
        with family.formats.open_single_file(source) as (weights, header), family.formats.open_base(base) as (own, _):
            _same_shapes(source, weights, own, base=base)
            yield ConvertibleModel(weights=weights, parts=family.formats.with_own_parts(source, base), header=header)
    elif is_lycoris(names):
        with family.formats.open_base(base) as (weights, _), opened(source) as file:
            adapter = read_lycoris(source, base=weights)
            yield ConvertibleModel(weights=apply_deltas(weights, adapter), parts=base, header=file.metadata() or {})
    else:
        pairs = family.formats.read_lora(source)
        with family.formats.open_base(base) as (weights, _):
            mine = of_transformer(pairs)
            text = {layer: pair for layer, pair in pairs.items() if layer not in mine}
            yield ConvertibleModel(weights=merged(weights, mine), parts=base, header=_header(source), text=text)


def to_diffusers_lora(source: Path, path: Path, *, base: ModelComponents | None, family: ModelFamily) -> None:
    """Write a LoRA for diffusers; with a base, a DoRA opens in ComfyUI too."""
    pairs = _plain(source, family.formats.read_lora(source))
    metadata = _header_for(_header(source), facts=family.facts, is_adapter=True)
    write_diffusers_lora(path, pairs, metadata=metadata)
    if base:
        add_comfyui_scales(path, base=base, family=family)


def to_comfyui_lora(source: Path, path: Path, *, base: ModelComponents | None, family: ModelFamily) -> None:
    """Write a LoRA for ComfyUI and kohya's programs; a DoRA needs its base. Raises ModelError."""
    if is_lycoris(_names(source)):
        with open_all([source]) as (tensors, header):
            metadata = _header_for(header, facts=family.facts, is_adapter=True)
            write_tensors(path, family.formats.to_comfyui_lycoris(tensors), metadata=metadata)
        return
    pairs = _plain(source, family.formats.read_lora(source))
    metadata = _header_for(_header(source), facts=family.facts, is_adapter=True, original=True)
    with family.formats.open_base(base) if base else nullcontext(({}, {})) as (weights, _):
        if base:
            merged(weights, of_transformer(pairs))  # raises for a LoRA of another model
        family.formats.write_comfyui_lora(path, pairs, base=weights, metadata=metadata)


def add_comfyui_scales(path: Path, *, base: ModelComponents, family: ModelFamily) -> None:
    """Add ComfyUI's tensors to a DoRA with diffusers' names, so that one file works in both programs.

    ComfyUI reads diffusers' names, but not its magnitudes; diffusers ignores `.dora_scale`. Other files are unchanged.
    """
    if not any(name.endswith(MAGNITUDE) for name in _names(path)):
        return
    pairs = family.formats.read_lora(path)
    with family.formats.open_base(base) as (weights, _):
        merged(weights, of_transformer(pairs))  # raises for a LoRA of another model
        scales = family.formats.comfyui_scales(of_transformer(pairs), base=weights)
    more = {f"{EXPORT_PREFIX}{layer}{COMFYUI_SCALE}": scale for layer, scale in scales.items()}
    with opened(path) as file:
        # Copies, because the tensors map the file that is about to be overwritten.
        tensors = {name: each.make().clone() for name, each in planned_from(file).items()}
        metadata = with_hash_to_come(file.metadata() or {})
    write_tensors(path, tensors | more, metadata=metadata)


def loses_differences(path: Path, *, family: ModelFamily) -> bool:
    """Whether ComfyUI can read all of a finished adapter only after `to_comfyui_lora`."""
    return family.formats.has_full_differences(_names(path))


def _plain(source: Path, pairs: dict[str, Pair]) -> dict[str, Pair]:
    """The pairs; raises ModelError if no LoRA format can store one of them."""
    if odd := [layer for layer, pair in pairs.items() if pair.input_magnitude is not None]:
        raise ModelError(
            f"{source} is a DoRA that normalizes inputs ({odd[0]}), as OneTrainer's are by default, and diffusers "
            "supports only those that normalize outputs. Merge it: --to pipeline or --to single-file, with --base."
        )
    return pairs


def _header(path: Path) -> Mapping[str, str]:
    with opened(path) as file:
        return file.metadata() or {}


def _names(path: Path) -> list[str]:
    with opened(path) as file:
        return list(file.keys())


def _same_shapes(
    source: Path, weights: Mapping[str, LazyTensor], own: Mapping[str, LazyTensor], *, base: ModelComponents
) -> None:
    """Raise ModelError if a file is a different model than the base that provides its configuration."""
    odd = sorted(weights.keys() ^ own.keys()) or [name for name in weights if weights[name].shape != own[name].shape]
    if odd:
        raise ModelError(f"{source} is a different model than {base.name} ({base.variant}): its {odd[0]} differs.")
