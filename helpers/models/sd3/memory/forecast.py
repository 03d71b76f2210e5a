"""What the run that settings describe will take of a graphics card, before there is a model: the wizard's estimate."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from helpers.config.train_config import RunConfig
from helpers.config.wizard.machine import MemoryPeaks
from helpers.errors import ModelError
from helpers.models.memory import Workload
from helpers.models.sd3.memory.architecture import (
    KNOWN,
    Architecture,
    TextEncoder,
    read_architecture,
    text_encoder_of,
    transformer_of,
    vae_of,
)
from helpers.models.sd3.memory.estimate import estimate_memory

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PUBLISHED = {
    "stabilityai/stable-diffusion-3-medium-diffusers": "SD3 medium",
    "stabilityai/stable-diffusion-3.5-medium": "SD3.5 medium",
    "stabilityai/stable-diffusion-3.5-large": "SD3.5 large",
}


def forecast(config: RunConfig) -> MemoryPeaks | None:
    """The peaks of encoding and of training with its test images on a CUDA card; None where the model is not known.

    config: the whole run's, which the estimate is about.
    """
    model = config.model
    architecture = _architecture(model.pretrained_model_name_or_path, model.pretrained_parts_model_name_or_path)
    if architecture is None:
        return None
    if model.without_t5:
        encoders = tuple(each for each in architecture.text_encoders if not each.is_t5)
        architecture = replace(architecture, text_encoders=encoders)
    resolution = config.data.resolution
    edge = math.sqrt(resolution * 1e6) if config.data.resolution_type == "area" else resolution
    alignment = config.data.aspect_bucket_alignment
    edge_px = max(1, round(edge / alignment)) * alignment
    workload = Workload.from_config(
        config,
        device="cuda",
        precision=replace(config.precision, mixed_precision=config.precision.mixed_precision or "bf16"),
        threads=1,
        width=edge_px,
        height=edge_px,
        vae_batch_size=1,  # all that must fit: the encoder halves its batch where memory runs out
    )
    estimate = estimate_memory(architecture, workload)
    return MemoryPeaks(
        encoding=estimate.caching_bytes, training=max(estimate.training_bytes, estimate.validation_bytes)
    )


@cache
def _architecture(model: str, parts: str | None) -> Architecture | None:
    if model in PUBLISHED:
        return KNOWN[PUBLISHED[model]]
    folder = Path(model).expanduser()
    if folder.is_file():
        return _of_file(folder, _architecture(parts, None) if parts else None)
    try:
        found = read_architecture(transformer=folder / "transformer", text_encoders=(), vae=folder / "vae")
        return replace(found, text_encoders=tuple(_text_encoders(folder)))
    except (OSError, ValueError, KeyError):
        return None


def _text_encoders(folder: Path) -> Iterator[TextEncoder]:
    """Those of a folder in diffusers layout; one that it lacks comes from elsewhere, and is as in any published SD3."""
    for name, published in zip(TEXT_ENCODERS, KNOWN["SD3 medium"].text_encoders, strict=True):
        config = folder / name / "config.json"
        yield text_encoder_of(json.loads(config.read_text(encoding="utf-8"))) if config.is_file() else published


def _of_file(file: Path, rest: Architecture | None) -> Architecture | None:
    """What is in the one file by its shapes, all else as in `rest`, or as in any published SD3."""
    from helpers.models.sd3.weights.component_files import read_config
    from helpers.models.sd3.weights.original.file import TRANSFORMER, parts_in

    others = rest or KNOWN["SD3 medium"]
    try:
        inside = {part: read_config(file / part) for part in parts_in(file)}
    except ModelError:
        return None
    encoders = tuple(
        text_encoder_of(inside[name]) if name in inside else other
        for name, other in zip(TEXT_ENCODERS, others.text_encoders, strict=True)
    )
    return Architecture(
        transformer=transformer_of(inside[TRANSFORMER]),
        text_encoders=encoders,
        vae=vae_of(inside["vae"]) if "vae" in inside else others.vae,
    )
