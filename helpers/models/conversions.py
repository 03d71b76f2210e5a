"""From the files that one program writes to those that another opens, numbers and provenance carried over."""

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
    """A whole model that is open: a denoiser's tensors by diffusers' names, the other parts, and its header.

    text: a LoRA that is still to be merged into the text encoders.
    """

    weights: Mapping[str, LazyTensor]
    parts: ModelComponents
    header: Mapping[str, str]
    text: Mapping[str, Pair] = field(default_factory=dict)

    def write_pipeline(self, folder: Path, *, family: ModelFamily) -> None:
        """As a folder that diffusers opens; `folder` is there and empty."""
        header = _header_for(self.header, facts=family.facts, is_adapter=False)
        family.write_pipeline(self.weights, self.parts, folder, text=self.text, metadata=header)

    def write_single_file(self, path: Path, *, family: ModelFamily, with_text_encoders: bool = False) -> None:
        """As one file in the original layout."""
        header = _header_for(self.header, facts=family.facts, is_adapter=False, original=True)
        family.formats.write_single_file(
            self.weights, self.parts, path, text=self.text, metadata=header, with_text_encoders=with_text_encoders
        )


def _header_for(
    header: Mapping[str, str], *, facts: FamilyFacts, is_adapter: bool, original: bool = False
) -> dict[str, str]:
    """See `carried_over`; original: of a file in the family's original layout."""
    implementation = facts.original_implementation if original else DIFFUSERS
    return carried_over(header, architecture=facts.architecture, implementation=implementation, is_adapter=is_adapter)


@contextmanager
def opened_model(source: Path, *, base: ModelComponents | None, family: ModelFamily) -> Iterator[ConvertibleModel]:
    """A folder in diffusers layout; a file in the original one, `base` lending what it lacks; or a LoRA and its base.

    Raises ModelError for anything else, and where a base is needed or does not fit.
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
        raise ModelError(f"{source} is not a whole model: name the base model that goes with it.")
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
    """Write a LoRA as diffusers opens it; a DoRA as ComfyUI does as well, where its base is given."""
    pairs = _plain(source, family.formats.read_lora(source))
    metadata = _header_for(_header(source), facts=family.facts, is_adapter=True)
    write_diffusers_lora(path, pairs, metadata=metadata)
    if base:
        add_comfyui_scales(path, base=base, family=family)


def to_comfyui_lora(source: Path, path: Path, *, base: ModelComponents | None, family: ModelFamily) -> None:
    """Write a LoRA as ComfyUI and kohya's programs open it; of a DoRA the base is needed. Raises ModelError."""
    if is_lycoris(_names(source)):
        with open_all([source]) as (tensors, said):
            metadata = _header_for(said, facts=family.facts, is_adapter=True)
            write_tensors(path, family.formats.to_comfyui_lycoris(tensors), metadata=metadata)
        return
    pairs = _plain(source, family.formats.read_lora(source))
    metadata = _header_for(_header(source), facts=family.facts, is_adapter=True, original=True)
    with family.formats.open_base(base) if base else nullcontext(({}, {})) as (weights, _):
        if base:
            merged(weights, of_transformer(pairs))  # which refuses a LoRA for another model
        family.formats.write_comfyui_lora(path, pairs, base=weights, metadata=metadata)


def add_comfyui_scales(path: Path, *, base: ModelComponents, family: ModelFamily) -> None:
    """Put into a DoRA in diffusers' names what ComfyUI needs of it, so that the one file opens whole in both.

    ComfyUI knows diffusers' names, but not its magnitudes; diffusers leaves `.dora_scale` out. Any other file stays as
    it is.
    """
    if not any(name.endswith(MAGNITUDE) for name in _names(path)):
        return
    pairs = family.formats.read_lora(path)
    with family.formats.open_base(base) as (weights, _):
        merged(weights, of_transformer(pairs))  # which refuses a LoRA for another model
        scales = family.formats.comfyui_scales(of_transformer(pairs), base=weights)
    more = {f"{EXPORT_PREFIX}{layer}{COMFYUI_SCALE}": scale for layer, scale in scales.items()}
    with opened(path) as file:
        # Copies, as what is read is a map of the file, which is about to be written.
        tensors = {name: each.make().clone() for name, each in planned_from(file).items()}
        metadata = with_hash_to_come(file.metadata() or {})
    write_tensors(path, tensors | more, metadata=metadata)


def loses_differences(path: Path, *, family: ModelFamily) -> bool:
    """Whether ComfyUI reads a finished adapter whole only once it has gone through `to_comfyui_lora`."""
    return family.formats.has_full_differences(_names(path))


def _plain(source: Path, pairs: dict[str, Pair]) -> dict[str, Pair]:
    """The pairs; raises ModelError where no file of a LoRA can hold what one of them does."""
    if odd := [layer for layer, pair in pairs.items() if pair.input_magnitude is not None]:
        raise ModelError(
            f"{source} is a DoRA that normalizes inputs ({odd[0]}), as OneTrainer's are by default, and diffusers "
            "knows only those that normalize outputs. Merge it: --to pipeline or --to single-file, with --base."
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
    """Raise ModelError where a file is of another kind of model than the base whose configuration it would be given."""
    odd = sorted(weights.keys() ^ own.keys()) or [name for name in weights if weights[name].shape != own[name].shape]
    if odd:
        raise ModelError(f"{source} is another kind of model than {base.name}, {base.variant}: see its {odd[0]}.")
