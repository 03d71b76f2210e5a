"""Finds a base model's components, and refuses an incomplete SD3 before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helpers.config.checks.paths import check_model_folder
from helpers.config.options.model import ModelOptions
from helpers.errors import BrokenModelError, ModelError
from helpers.models.family import ModelComponents
from helpers.models.hub import download, is_hub_id
from helpers.models.sd3.assets import ASSETS, SMALL_PARTS, TOKENIZERS
from helpers.models.sd3.weights.component_checks import Components, option_of, wrong_with_components
from helpers.models.sd3.weights.component_files import (
    files_of_component,
    is_in_file,
    loading_variant,
    part_identity,
    read_config,
)
from helpers.models.sd3.weights.components_fit import check_parts_fit, longest_edge_px, variant_of
from helpers.models.sd3.weights.missing_components import BASE, NAMED, PARTS_OPTION, refuse_missing
from helpers.models.sd3.weights.original.file import TRANSFORMER, VAE, parts_in
from helpers.models.sd3.weights.original.text import T5

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", T5)
PARTS = (TRANSFORMER, VAE, *TEXT_ENCODERS)
REST = "tokenizers and scheduler"
OURS = "this program"


def locate(options: ModelOptions) -> ModelComponents:
    """Locate the model's components, and download them for a hub id; raises ModelError."""
    name = options.pretrained_model_name_or_path
    found = _Found(absent=(T5,) if options.without_t5 else ())
    _add_named(found, options)
    file = Path(name).expanduser()
    root = _add_file_and_the_rest(found, file, options) if file.is_file() else _add_folder(found, options)
    refuse_missing(name, found.lacking(), others=options.pretrained_parts_model_name_or_path)
    small = _small_parts(found, root, name=options.pretrained_parts_model_name_or_path or name)
    components = Components(
        weights=found.places,
        small=tuple(small.values()),
        variant=options.variant,
        option_of=lambda part: option_of(part, options, is_in_base=found.places.get(part, file).parent == file),
    )
    if problems := wrong_with_components(components):
        raise BrokenModelError(problems)
    check_parts_fit(found.places, served=[part for part, place in small.items() if place.is_relative_to(ASSETS)])
    transformer = read_config(found.places[TRANSFORMER])
    encoders = [part for part in TEXT_ENCODERS if part in found.places]
    return ModelComponents(
        name=name,
        variant=variant_of(transformer),
        identity=part_identity(found.places[TRANSFORMER], options.variant),
        flow_shift=float(read_config(small["scheduler"], "scheduler_config.json").get("shift", 1.0)),
        longest_edge_px=longest_edge_px(transformer, vae=read_config(found.places[VAE])),
        weights_variant=options.variant,
        transformer=found.places[TRANSFORMER],
        vae=found.places[VAE],
        scheduler=small["scheduler"],
        text_encoders=tuple(found.places[part] for part in encoders),
        tokenizers=tuple(small[TOKENIZERS[TEXT_ENCODERS.index(part)]] for part in encoders),
        sources=found.sources,
        absent=found.absent,
    )


def component_files(parts: ModelComponents) -> dict[str, tuple[Path, ...]]:
    """The files that each component is read from, by its name in diffusers layout; raises ModelError.

    For a component in a single file, that file. No file is opened.
    """
    places = {
        TRANSFORMER: parts.transformer,
        VAE: parts.vae,
        **dict(zip(TEXT_ENCODERS, parts.text_encoders, strict=False)),
    }
    small = {"scheduler": parts.scheduler, **dict(zip(TOKENIZERS, parts.tokenizers, strict=False))}
    return {
        **{part: files_of_component(place, parts.weights_variant) for part, place in places.items()},
        **{part: tuple(sorted(file for file in place.iterdir() if file.is_file())) for part, place in small.items()},
    }


@dataclass(kw_only=True)
class _Found:
    """The places of components, and the user's settings that they come from; components found first have priority."""

    absent: tuple[str, ...]
    places: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def lacking(self) -> list[str]:
        return [part for part in PARTS if part not in self.places and part not in self.absent]

    def add(self, part: str, place: Path, *, source: str) -> None:
        self.places[part] = place
        self.sources[part] = source


def _add_named(found: _Found, options: ModelOptions) -> None:
    """Add the components that have their own option."""
    for part in found.lacking():
        source = getattr(options, NAMED[part]) if part in NAMED else None
        if source:
            place = _part_elsewhere(source, part, variant=options.variant)
            found.add(part, place, source=place.parent.name if is_in_file(place) else source)


def _add_file_and_the_rest(found: _Found, file: Path, options: ModelOptions) -> Path | None:
    """Add the file's components, and missing ones from elsewhere; returns the other model's folder, if any."""
    inside = parts_in(file)
    for part in found.lacking():
        if part in inside:
            found.add(part, file / part, source=file.name)
    others = options.pretrained_parts_model_name_or_path
    return _add_from(found, others, found.lacking(), options, option=f"--{PARTS_OPTION}") if others else None


def _add_folder(found: _Found, options: ModelOptions) -> Path:
    """Add the components of one folder or hub id, or the transformer of one and everything else from another."""
    name, others = options.pretrained_model_name_or_path, options.pretrained_parts_model_name_or_path
    if others is None:
        return _add_from(found, name, found.lacking(), options, option=BASE)
    root = _root(name, [TRANSFORMER], revision=options.revision, variant=options.variant, option=BASE)
    found.add(TRANSFORMER, root / TRANSFORMER, source=name)
    return _add_from(found, others, found.lacking(), options, option=f"--{PARTS_OPTION}")


def _add_from(found: _Found, name: str, parts: Sequence[str], options: ModelOptions, *, option: str) -> Path:
    revision = options.revision if option == BASE else None
    root = _root(name, parts, revision=revision, variant=options.variant, option=option)
    if wrong := check_model_folder(root):
        raise ModelError(f"{name}: {wrong[0]}; {wrong[1]}.")
    for part in parts:
        if (root / part / "config.json").is_file():
            found.add(part, root / part, source=name)
    return root


def _small_parts(found: _Found, root: Path | None, *, name: str) -> Mapping[str, Path]:
    """The folders of tokenizers and scheduler: those in `root`, else the ones included in this program."""
    wanted = [part for part in SMALL_PARTS if part != TOKENIZERS[-1] or T5 not in found.absent]
    own = [part for part in wanted if root is not None and (root / part).is_dir()]
    by_source = {name: own, OURS: [part for part in wanted if part not in own]}
    for source, parts in by_source.items():
        if len(parts) == len(wanted):
            found.sources[REST] = source
        else:
            found.sources.update(dict.fromkeys(parts, source))
    return {part: (root if root is not None and part in own else ASSETS) / part for part in wanted}


def _root(name: str, folders: Sequence[str], *, revision: str | None, variant: str | None, option: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(f"{option} is the file {folder}; name a folder in diffusers layout, or a hub id, instead.")
    if not is_hub_id(name):
        raise ModelError(f"{option} names {name}, which is not a folder on this machine.")
    root = download(name, folders=(*folders, *SMALL_PARTS), revision=revision, variant=variant)
    plain = [part for part in folders if (root / part).is_dir() and not loading_variant(root / part, variant)]
    if variant and plain:
        download(name, folders=plain, revision=revision, variant=None)
    return root


def _part_elsewhere(source: str, part: str, *, variant: str | None) -> Path:
    """The place of a component from elsewhere: in a file, in its own folder, or in the folder of another model."""
    path = Path(source).expanduser()
    if path.is_file():
        return path / part
    root = _root(source, (part, ""), revision=None, variant=variant, option=f"--{NAMED[part]}")
    return root / part if (root / part).is_dir() else root
