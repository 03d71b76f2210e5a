"""Finds a base model's parts on this machine, and refuses what is not a whole SD3 before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.config.model_folder import wrong_with_model
from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.family import ModelParts
from helpers.models.hub import download, is_hub_id
from helpers.models.sd3.weights.component_files import check_part, loading_variant, part_identity, read_config
from helpers.models.sd3.weights.original_file import TRANSFORMER, VAE, parts_in
from helpers.models.sd3.weights.original_text import T5

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", T5)
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
PARTS = (TRANSFORMER, VAE, *TEXT_ENCODERS)
REST = "tokenizers and scheduler"
BASE = "MODEL_NAME"
PARTS_OPTION = "pretrained_parts_model_name_or_path"
VAE_OPTION, T5_OPTION = "pretrained_vae_model_name_or_path", "pretrained_t5_model_name_or_path"


def locate(options: ModelOptions) -> ModelParts:
    """Where the model's parts are, downloaded first where a hub id is given; raises ModelError."""
    name = options.pretrained_model_name_or_path
    found = _Found()
    _add_named(found, options)
    file = Path(name).expanduser()
    root = _add_file_and_the_rest(found, file, options) if file.is_file() else _add_folder(found, options)
    for part in ("scheduler", *TOKENIZERS):
        if not (root / part).is_dir():
            raise ModelError(f"{root} has no folder `{part}`; a whole SD3 in diffusers layout has one.")
    for part, place in found.places.items():
        check_part(place, options.variant, part=part)
    _check_parts_fit(found.places)
    transformer = read_config(found.places[TRANSFORMER])
    return ModelParts(
        name=name,
        variant=_variant(transformer),
        identity=part_identity(found.places[TRANSFORMER], options.variant),
        flow_shift=float(read_config(root / "scheduler", "scheduler_config.json").get("shift", 1.0)),
        longest_edge_px=_longest_edge_px(transformer, vae=read_config(found.places[VAE])),
        weights_variant=options.variant,
        transformer=found.places[TRANSFORMER],
        vae=found.places[VAE],
        scheduler=root / "scheduler",
        text_encoders=tuple(found.places[part] for part in TEXT_ENCODERS),
        tokenizers=tuple(root / part for part in TOKENIZERS),
        sources=found.sources,
    )


@dataclass
class _Found:
    """Where parts are, and what the person said that they are taken from; who comes first is asked first."""

    places: dict[str, Path] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def lacking(self) -> list[str]:
        return [part for part in PARTS if part not in self.places]

    def add(self, part: str, place: Path, *, source: str) -> None:
        self.places[part] = place
        self.sources[part] = source


def _add_named(found: _Found, options: ModelOptions) -> None:
    """The parts that have an option of their own."""
    for part, option in ((VAE, VAE_OPTION), (T5, T5_OPTION)):
        if source := getattr(options, option):
            found.add(part, _part_elsewhere(source, part, variant=options.variant), source=source)


def _add_file_and_the_rest(found: _Found, file: Path, options: ModelOptions) -> Path:
    """What the one file holds, and from elsewhere what it lacks; the folder of the tokenizers and the scheduler."""
    inside = parts_in(file)
    for part in found.lacking():
        if part in inside:
            found.add(part, file / part, source=file.name)
    others = options.pretrained_parts_model_name_or_path
    if others is None:
        lacks = ", ".join([*found.lacking(), "the tokenizers and the scheduler"])
        raise ModelError(f"{file} lacks {lacks}; say --{PARTS_OPTION} too.")
    return _add_from(found, others, found.lacking(), options, option=f"--{PARTS_OPTION}")


def _add_folder(found: _Found, options: ModelOptions) -> Path:
    """What one folder or hub id has, or the transformer of one and all else of another."""
    name, others = options.pretrained_model_name_or_path, options.pretrained_parts_model_name_or_path
    if others is None:
        return _add_from(found, name, found.lacking(), options, option=BASE)
    root = _root(name, [TRANSFORMER], revision=options.revision, variant=options.variant, option=BASE)
    found.add(TRANSFORMER, root / TRANSFORMER, source=name)
    return _add_from(found, others, found.lacking(), options, option=f"--{PARTS_OPTION}")


def _add_from(found: _Found, name: str, parts: Sequence[str], options: ModelOptions, *, option: str) -> Path:
    revision = options.revision if option == BASE else None
    root = _root(name, parts, revision=revision, variant=options.variant, option=option)
    if wrong := wrong_with_model(root):
        raise ModelError(f"{name}: {wrong[0]}; {wrong[1]}.")
    for part in parts:
        found.add(part, root / part, source=name)
    found.sources[REST] = name
    return root


def _longest_edge_px(transformer: Mapping[str, Any], *, vae: Mapping[str, Any]) -> int:
    """The longest edge of an image for which the transformer's table of positions has places."""
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    return int(transformer["pos_embed_max_size"]) * int(transformer["patch_size"]) * downscale


def _root(name: str, folders: Sequence[str], *, revision: str | None, variant: str | None, option: str) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(f"{option} is the file {folder}; name a folder in diffusers layout, or a hub id, instead.")
    if not is_hub_id(name):
        raise ModelError(f"{option} names {name}, which is no folder on this machine.")
    small = ("scheduler", *TOKENIZERS)
    root = download(name, folders=(*folders, *small), revision=revision, variant=variant)
    plain = [part for part in folders if (root / part).is_dir() and not loading_variant(root / part, variant)]
    if variant and plain:
        download(name, folders=plain, revision=revision, variant=None)
    return root


def _part_elsewhere(source: str, part: str, *, variant: str | None) -> Path:
    """The folder of a part that is taken from another model: the folder itself, or one inside of it."""
    option = f"--{VAE_OPTION if part == VAE else T5_OPTION}"
    root = _root(source, (part, ""), revision=None, variant=variant, option=option)
    return root / part if (root / part).is_dir() else root


def _check_parts_fit(folders: dict[str, Path]) -> None:
    """Refuse a VAE or T5 of another kind of model, which would only fail, or draw nonsense, much later."""
    transformer, vae, t5 = (read_config(folders[part]) for part in ("transformer", VAE, T5))
    if vae.get("latent_channels") != transformer.get("in_channels"):
        raise ModelError(
            f"The VAE in {folders[VAE]} makes {vae.get('latent_channels')} latent channels, but the transformer takes "
            f"{transformer.get('in_channels')}; it belongs to another kind of model."
        )
    if t5.get("d_model") != transformer.get("joint_attention_dim"):
        raise ModelError(
            f"The text encoder in {folders[T5]} is {t5.get('d_model')} wide, but the transformer takes "
            f"{transformer.get('joint_attention_dim')}; SD3's third one is the encoder of T5 v1.1 XXL."
        )


def _variant(config: dict[str, Any]) -> str:
    """Which SD3 it is, by its shape: never by a name that a person may have changed."""
    layers = config.get("num_layers")
    if config.get("dual_attention_layers"):
        return "SD3.5 medium" if layers == 24 else f"SD3.5 of {layers} layers"
    if config.get("qk_norm"):
        return "SD3.5 large" if layers == 38 else f"SD3.5 of {layers} layers"
    return "SD3 medium" if layers == 24 else f"SD3 of {layers} layers"
