"""Reads and writes a complete SD3 as one file in the original layout, as published by Stability AI."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.models.family import ModelComponents
from helpers.models.formats.lora import Pair, merged, of_text_encoder
from helpers.models.formats.safetensors import LazyTensor, Opened, write_tensors
from helpers.models.sd3.weights.component_files import open_part, read_config
from helpers.models.sd3.weights.components import TEXT_ENCODERS
from helpers.models.sd3.weights.original import keys as original_keys
from helpers.models.sd3.weights.original import vae as original_vae
from helpers.models.sd3.weights.original.config import HEADER_ENTRY, left_open
from helpers.models.sd3.weights.original.file import PREFIXES, TRANSFORMER, VAE, open_in_file, parts_in
from helpers.models.sd3.weights.original.text import T5


def open_base(parts: ModelComponents) -> AbstractContextManager[Opened]:
    """See `FamilyFormats`: the transformer in a folder of diffusers layout, or in one file."""
    return open_part(parts.transformer, parts.weights_variant)


def open_single_file(path: Path) -> AbstractContextManager[Opened]:
    """See `FamilyFormats`. Some files contain only the transformer, without a prefix."""
    return open_in_file(path, TRANSFORMER)


def with_own_parts(path: Path, base: ModelComponents) -> ModelComponents:
    """See `FamilyFormats`."""
    inside = parts_in(path)
    encoders = zip(TEXT_ENCODERS, base.text_encoders, strict=False)
    return replace(
        base,
        vae=path / VAE if VAE in inside else base.vae,
        text_encoders=tuple(path / name if name in inside else place for name, place in encoders),
    )


def write_single_file(
    weights: Mapping[str, LazyTensor],
    parts: ModelComponents,
    path: Path,
    *,
    text: Mapping[str, Pair],
    metadata: Mapping[str, str],
    with_text_encoders: bool = False,
) -> None:
    """See `FamilyFormats`; tensors keep their dtypes, except 8-bit ones, which become bfloat16.

    Text encoders are written only if requested, or if a LoRA is merged into the CLIPs; otherwise they are the same for
    every SD3.
    """
    with ExitStack() as stack:
        written = {TRANSFORMER: (parts.transformer, dict(weights))}
        for part, place in zip((VAE, *TEXT_ENCODERS), (parts.vae, *parts.text_encoders), strict=False):
            if part == VAE or with_text_encoders or (text and part != T5):
                found, _ = stack.enter_context(open_part(place, parts.weights_variant))
                written[part] = (place, merged(found, of_text_encoder(text, f"{part}.")))
        tensors, facts = {}, {}
        for part, (place, mine) in written.items():
            tensors |= {PREFIXES[part] + name: each for name, each in _original(part, mine).items()}
            facts[part] = left_open(mine, read_config(place), part)
        write_tensors(path, tensors, metadata=_with_facts(metadata, facts))


def _with_facts(metadata: Mapping[str, str], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The header plus the config entries that shapes do not show, if any."""
    header = {name: value for name, value in metadata.items() if name != HEADER_ENTRY}
    return {**header, HEADER_ENTRY: json.dumps(facts)} if any(facts.values()) else header


def _original(part: str, tensors: Mapping[str, LazyTensor]) -> Mapping[str, LazyTensor]:
    if part == TRANSFORMER:
        return original_keys.to_original(tensors)
    return original_vae.vae_to_original(tensors) if part == VAE else tensors
