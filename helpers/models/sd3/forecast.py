"""What the run that settings describe will take of a graphics card, before there is a model: the wizard's estimate."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

from helpers.config.run_config import RunConfig
from helpers.config.wizard_machine import Peaks
from helpers.models.sd3.architecture import KNOWN, Architecture, read_architecture
from helpers.models.sd3.memory import estimate_memory
from helpers.models.workload import workload_of

PUBLISHED = {
    "stabilityai/stable-diffusion-3-medium-diffusers": "SD3 medium",
    "stabilityai/stable-diffusion-3.5-medium": "SD3.5 medium",
    "stabilityai/stable-diffusion-3.5-large": "SD3.5 large",
}


def forecast(config: RunConfig) -> Peaks | None:
    """The peaks of encoding and of training with its test pictures on a CUDA card; None where the model is not known.

    config: the whole run's, which the estimate is about.
    """
    architecture = _architecture(config.model.pretrained_model_name_or_path)
    if architecture is None:
        return None
    resolution = config.data.resolution
    edge = math.sqrt(resolution * 1e6) if config.data.resolution_type == "area" else resolution
    alignment = config.data.aspect_bucket_alignment
    edge_px = max(1, round(edge / alignment)) * alignment
    workload = workload_of(
        device="cuda",
        precision=replace(config.precision, mixed_precision=config.precision.mixed_precision or "bf16"),
        model=config.model,
        lora=config.lora,
        text=config.text,
        run=config.run,
        speed=config.speed,
        optimizer=config.optimizer,
        validation=config.validation,
        threads=1,
        width=edge_px,
        height=edge_px,
        vae_batch_size=config.cache.vae_batch_size,
        keeps_vae=config.cache.keep_vae_loaded,
    )
    estimate = estimate_memory(architecture, workload)
    return Peaks(encoding=estimate.caching_bytes, training=max(estimate.training_bytes, estimate.validation_bytes))


@cache
def _architecture(model: str) -> Architecture | None:
    if model in PUBLISHED:
        return KNOWN[PUBLISHED[model]]
    folder = Path(model).expanduser()
    encoders = tuple(folder / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3"))
    try:
        return read_architecture(transformer=folder / "transformer", text_encoders=encoders, vae=folder / "vae")
    except (OSError, ValueError, KeyError):
        return None
