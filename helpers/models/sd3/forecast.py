"""What the run that settings describe will take of a graphics card, before there is a model: the wizard's estimate."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

from helpers.config.run_config import RunConfig
from helpers.config.sizes import parse_validation_sizes
from helpers.config.wizard_machine import Peaks
from helpers.models.sd3.architecture import KNOWN, Architecture, read_architecture
from helpers.models.sd3.memory import Workload, estimate_memory

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
    precision = config.precision
    mixed = precision.mixed_precision or "bf16"
    default = {"no": "fp32"}.get(mixed, mixed)
    resolution = config.data.resolution
    edge = math.sqrt(resolution * 1e6) if config.data.resolution_type == "area" else resolution
    alignment = config.data.aspect_bucket_alignment
    edge_px = max(1, round(edge / alignment)) * alignment
    drawn = parse_validation_sizes(config.validation.validation_resolution)
    estimate = estimate_memory(
        architecture,
        Workload(
            device="cuda",
            precision=replace(
                precision,
                mixed_precision=mixed,
                base_model_default_dtype=precision.base_model_default_dtype or default,
            ),
            model_type=config.model.model_type,
            optimizer=config.optimizer.optimizer,
            lora_rank=config.lora.lora_rank,
            lora_target=config.lora.lora_target,
            batch_size=config.run.train_batch_size,
            accumulation=config.run.gradient_accumulation_steps,
            width=edge_px,
            height=edge_px,
            t5_tokens=config.text.tokenizer_max_length,
            gradient_checkpointing=config.run.gradient_checkpointing,
            vae_batch_size=config.cache.vae_batch_size,
            validation=max(drawn, key=math.prod) if config.validation.validation_prompt else None,
            guided=config.validation.validation_guidance > 1,
        ),
    )
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
