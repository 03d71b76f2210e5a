"""Writes a trained SD3 as a folder in diffusers layout, with the base's other components copied."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from helpers.models.family import ModelComponents
from helpers.models.formats.lora import Pair, merged, of_text_encoder
from helpers.models.formats.safetensors import LazyTensor, write_tensors
from helpers.models.sd3.assets import TOKENIZERS
from helpers.models.sd3.weights.component_files import is_in_file, loading_variant, open_part, read_config, weight_files
from helpers.models.sd3.weights.components import TEXT_ENCODERS
from helpers.models.sd3.weights.original.file import VAE
from helpers.models.sd3.weights.original.text import T5


def write_pipeline(
    weights: Mapping[str, Tensor | LazyTensor],
    parts: ModelComponents,
    folder: Path,
    *,
    text: Mapping[str, Pair],
    metadata: Mapping[str, str],
) -> None:
    """See `ModelFamily`. Weights keep their dtypes; `from_pretrained` needs no variant.

    Files of the base are copied, not linked: a program that saves in place would write through a link into the base.
    """
    transformer = folder / "transformer"
    transformer.mkdir()
    _copy_config(parts.transformer, transformer)
    write_tensors(transformer / "diffusion_pytorch_model.safetensors", weights, metadata=metadata)
    for name, source in zip((VAE, *TEXT_ENCODERS), (parts.vae, *parts.text_encoders), strict=False):
        pairs = of_text_encoder(text, f"{name}.")
        if pairs or is_in_file(source):
            _write_model(source, folder / name, pairs, variant=parts.weights_variant)
        else:
            _copy_model(source, folder / name, variant=loading_variant(source, parts.weights_variant))
    for name, source in zip(("scheduler", *TOKENIZERS), (parts.scheduler, *parts.tokenizers), strict=False):
        shutil.copytree(source, folder / name, copy_function=shutil.copyfile)
    (folder / "model_index.json").write_text(
        json.dumps(model_index(without_t5=T5 in parts.absent), indent=2) + "\n", encoding="utf-8"
    )


def _copy_model(source: Path, to: Path, *, variant: str | None) -> None:
    """Copy a component's config and the weights in use, renamed to have no variant."""
    to.mkdir()
    for file in (source / "config.json", *weight_files(source, variant)):
        shutil.copyfile(file, to / _plain(file.name, variant))
    for index in source.glob(f"*.safetensors.index{f'.{variant}' if variant else ''}.json"):
        (to / _plain(index.name, variant)).write_text(_plain(index.read_text(encoding="utf-8"), variant))


def _write_model(source: Path, to: Path, pairs: Mapping[str, Pair], *, variant: str | None) -> None:
    """Write a component's config, and its weights with a LoRA merged in."""
    to.mkdir()
    _copy_config(source, to)
    name = "diffusion_pytorch_model" if to.name == VAE else "model"
    with open_part(source, variant) as (tensors, _):
        write_tensors(to / f"{name}.safetensors", merged(tensors, pairs), metadata={})


def _copy_config(source: Path, to: Path) -> None:
    """Write a component's config.json, derived from the tensors for a single file."""
    if is_in_file(source):
        (to / "config.json").write_text(json.dumps(read_config(source), indent=2) + "\n", encoding="utf-8")
    else:
        shutil.copyfile(source / "config.json", to / "config.json")


def _plain(text: str, variant: str | None) -> str:
    """`model.fp16-00001-of-00002.safetensors` without its variant."""
    if variant is None:
        return text
    return text.replace(f".{variant}.", ".").replace(f".{variant}-", "-")


def model_index(*, without_t5: bool = False) -> dict[str, Any]:
    """The content of `model_index.json` for an SD3 in diffusers layout."""
    nothing = [None, None]
    return {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": nothing if without_t5 else ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": nothing if without_t5 else ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
