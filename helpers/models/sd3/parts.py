"""Finds a base model's parts on this machine, and refuses what is not a whole SD3 before anything is loaded."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from helpers.config.model_folder import wrong_with_model
from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.fingerprint import config_fingerprint, file_fingerprint, files_fingerprint, fingerprint
from helpers.models.hub import download, is_hub_id, weight_patterns
from helpers.models.protocols import ModelParts
from helpers.models.sd3.original_config import config_of_file

VAE, T5 = "vae", "text_encoder_3"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", T5)
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
PARTS_OPTION = "pretrained_parts_model_name_or_path"
VAE_OPTION, T5_OPTION = "pretrained_vae_model_name_or_path", "pretrained_t5_model_name_or_path"


def locate(options: ModelOptions) -> ModelParts:
    """Where the model's parts are, downloaded first where a hub id is given; raises ModelError."""
    name = options.pretrained_model_name_or_path
    file = Path(name).expanduser()
    is_file = file.is_file()
    elsewhere = {
        part: getattr(options, option)
        for part, option in ((VAE, VAE_OPTION), (T5, T5_OPTION))
        if getattr(options, option)
    }
    own = [part for part in ("transformer", VAE, *TEXT_ENCODERS) if part not in elsewhere]
    others = options.pretrained_parts_model_name_or_path
    if is_file and others is None:
        raise ModelError(f"{name} is one file, of which the transformer is taken; say --{PARTS_OPTION} too.")
    transformer = file if is_file else Path()
    if others is not None:
        own.remove("transformer")
        root = _root(others, own, revision=None, variant=options.variant, option=f"--{PARTS_OPTION}")
        if not is_file:
            only = _root(name, ["transformer"], revision=options.revision, variant=options.variant, option="MODEL_NAME")
            transformer = only / "transformer"
    else:
        root = _root(name, own, revision=options.revision, variant=options.variant, option="MODEL_NAME")
        transformer = root / "transformer"
    if wrong := wrong_with_model(root):
        raise ModelError(f"{others or name}: {wrong[0]}; {wrong[1]}.")
    folders = {part: root / part for part in own} | {"transformer": transformer}
    for part, source in elsewhere.items():
        folders[part] = _part_elsewhere(source, part, variant=options.variant)
    for part, folder in folders.items():
        weight_files(folder, options.variant, part=part)
    for part in ("scheduler", *TOKENIZERS):
        if not (root / part).is_dir():
            raise ModelError(f"{root} has no folder `{part}`; a whole SD3 in diffusers layout has one.")
    _check_parts_fit(folders)
    transformer = read_config(folders["transformer"])
    return ModelParts(
        name=name,
        variant=_variant(transformer),
        identity=part_identity(folders["transformer"], options.variant),
        flow_shift=float(read_config(root / "scheduler", "scheduler_config.json").get("shift", 1.0)),
        longest_edge_px=_longest_edge_px(transformer, vae=read_config(folders[VAE])),
        weights_variant=options.variant,
        transformer=folders["transformer"],
        vae=folders[VAE],
        scheduler=root / "scheduler",
        text_encoders=tuple(folders[part] for part in TEXT_ENCODERS),
        tokenizers=tuple(root / part for part in TOKENIZERS),
    )


def _longest_edge_px(transformer: Mapping[str, Any], *, vae: Mapping[str, Any]) -> int:
    """The longest edge of a picture for which the transformer's table of positions has places."""
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    return int(transformer["pos_embed_max_size"]) * int(transformer["patch_size"]) * downscale


def weight_files(folder: Path, variant: str | None, *, part: str = "") -> tuple[Path, ...]:
    """A part's safetensors files: of the variant where it has one, else the plain ones; raises ModelError."""
    if folder.is_file():
        return (folder,)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so the model's `{part or folder.name}` is missing.")
    names = sorted(file.name for file in folder.iterdir())
    found = _matching(names, variant) or _matching(names, None)
    if not found:
        there = ", ".join(name for name in names if name != "config.json") or "nothing else"
        raise ModelError(
            f"{folder} has no safetensors weights (`{weight_patterns(variant)[0]}` or the like); beside config.json "
            f"there is {there}. Download them, or name the variant that is there with --variant."
        )
    missing = sorted(set(_whole_set(found[0])) - set(found))
    if missing:
        raise ModelError(f"{folder} lacks {', '.join(missing)}; is the download whole?")
    return tuple(folder / name for name in found)


def loading_variant(folder: Path, variant: str | None) -> str | None:
    """What to give `from_pretrained` as variant, for a part that may have only plain weights."""
    return variant if _matching([file.name for file in folder.iterdir()], variant) else None


def part_identity(folder: Path, variant: str | None) -> str:
    """A hash of a part's config and weights; of one file, whatever it is called."""
    if folder.is_file():
        return fingerprint(config_fingerprint(read_config(folder)), file_fingerprint(folder))
    return fingerprint(config_fingerprint(read_config(folder)), files_fingerprint(weight_files(folder, variant)))


def read_config(folder: Path, file_name: str = "config.json") -> dict[str, Any]:
    """A part's config, of one file by its tensors; raises ModelError naming a file that is not there or not JSON."""
    if folder.is_file():
        return config_of_file(folder)
    try:
        return json.loads((folder / file_name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / file_name} cannot be read: {error}") from error


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


def _matching(names: Sequence[str], variant: str | None) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in weight_patterns(variant))]


def _whole_set(first: str) -> list[str]:
    """Every shard of the set that `first` belongs to, by the count in its name; just itself when it is no shard."""
    if "-of-" not in first:
        return [first]
    stem, total = first.removesuffix(".safetensors").rsplit("-of-", 1)
    start, digits = stem.rsplit("-", 1)
    return [f"{start}-{number:0{len(digits)}d}-of-{total}.safetensors" for number in range(1, int(total) + 1)]
