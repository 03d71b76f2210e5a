"""Draws what a run left with plain diffusers, and lycoris: they know of the run its base model and its file."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from helpers.models.quantization import layers_to_quantize
from helpers.models.quantized_weight import quantized
from helpers.models.sd3.transformer import NEVER_QUANTIZED
from tests.runs.harness import SmallRun

TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
RESULT = "pytorch_lora_weights.safetensors"


class Elsewhere:
    """Plain pipelines of base models that share all but their transformers; each image is of `prompt`."""

    def __init__(self, base: Path, *, prompt: str) -> None:
        from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

        self._pipeline: Any = StableDiffusion3Pipeline.from_pretrained(base)
        self._pipeline.set_progress_bar_config(disable=True)
        self._encoders = {name: getattr(self._pipeline, name) for name in TEXT_ENCODERS}
        self._prompt = prompt

    def drawn(self, run: SmallRun) -> NDArray[np.float32]:
        """The pixels [H, W, 3] of the run's result, on weights that quanto rounded as the run's settings say.

        The arithmetic is the trainer's: numbers of its format, and 16 bits of a caption, which is what the cache holds.
        """
        settings = run.settings
        level = settings.get("base_model_precision", "no_change")
        dtype = torch.bfloat16 if _is_held_in_bf16(settings) else torch.float32
        pipeline = self._pipeline
        pipeline.transformer = _transformer(run).to(dtype)
        for number, name in enumerate(TEXT_ENCODERS, 1):
            encoder = copy.deepcopy(self._encoders[name])
            said = settings.get(f"text_encoder_{number}_precision", level)
            setattr(pipeline, name, _rounded(encoder, said))
        _rounded(pipeline.transformer, level, keep=NEVER_QUANTIZED)
        network = _open(run, pipeline)
        texts = self._texts(run, dtype)
        (latents,) = pipeline(
            **texts,
            width=64,
            height=64,
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(42),
            output_type="latent",
        ).images
        del network
        latents = latents[None] / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        with torch.no_grad():
            pixels = pipeline.vae.decode(latents.float())[0]
        return pipeline.image_processor.postprocess(pixels, output_type="np")[0] * 255

    def _texts(self, run: SmallRun, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        embeds, _, pooled, _ = self._pipeline.encode_prompt(
            self._prompt, self._prompt, self._prompt, max_sequence_length=77, do_classifier_free_guidance=False
        )
        cached = embeds.bfloat16().float()
        if run.settings.get("train_text_encoder"):
            cached[:, :77] = embeds[:, :77]
        else:
            pooled = pooled.bfloat16()
        return {"prompt_embeds": cached.to(dtype), "pooled_prompt_embeds": pooled.to(dtype)}


def _is_held_in_bf16(settings: Mapping[str, Any]) -> bool:
    """Whether the trainer holds the base so."""
    if settings.get("model_type") == "full":
        return settings.get("optimizer") == "adamw_bf16"
    quantized = settings.get("base_model_precision", "no_change") != "no_change"
    computed_so = settings.get("mixed_precision") == "bf16" and settings.get("base_model_default_dtype") != "fp32"
    return quantized or computed_so


def _transformer(run: SmallRun) -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    whole = run.output / "pipeline"
    return SD3Transformer2DModel.from_pretrained((whole if whole.exists() else run.pipeline) / "transformer")


def _open(run: SmallRun, pipeline: Any) -> object:
    """Put the run's adapter on, where it left one; what must be kept as long as it is used."""
    if (run.output / "pipeline").exists():
        return None
    if run.settings.get("lora_type") == "lycoris":
        from lycoris import create_lycoris_from_weights

        network, _ = create_lycoris_from_weights(1.0, str(run.output / RESULT), pipeline.transformer)
        network.apply_to()
        return network
    pipeline.load_lora_weights(run.output, weight_name=RESULT)
    return None


def _rounded(model: nn.Module, level: str, *, keep: tuple[str, ...] = ()) -> nn.Module:
    """The model with plain layers, of which each quantized one has the weights that its codes stand for."""
    for name in layers_to_quantize(model, level, keep=keep):
        layer: Any = model.get_submodule(name)
        layer.weight.data = quantized(layer.weight, level=level).dequantize()
    return model
