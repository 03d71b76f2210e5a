"""Every kind of training by its name: the one place that knows them all."""

from dataclasses import replace

from torch import nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.config.options.trained import FullOptions
from helpers.models.adapters import trained_lora
from helpers.models.full import trained_in_full
from helpers.models.protocols import ModelFamily, ModelParts
from helpers.models.trained import Trained


def make_trained(
    denoiser: nn.Module,
    *,
    model_type: str,
    lora: LoraOptions,
    full: FullOptions,
    family: ModelFamily,
    parts: ModelParts,
    seed: int,
) -> Trained:
    """What `model_type` trains of the loaded, frozen `denoiser`, which is changed in place.

    Raises ModelError where nothing is left to train, or a module is named that the model lacks.
    """
    match model_type:
        case "lora":
            return trained_lora(denoiser, modules=family.lora_modules(denoiser, lora.lora_target), lora=lora, seed=seed)
        case "full":
            return trained_in_full(denoiser, options=full, write_pipeline=family.write_pipeline, parts=parts)
        case unknown:
            raise AssertionError(f"model_type {unknown} is declared and not built")


def base_precision(precision: PrecisionOptions, *, model_type: str, optimizer: str) -> PrecisionOptions:
    """`precision` with the number format of weights that are trained themselves: fp32, which an optimiser can move.

    bf16 keeps 8 bits of a weight, so that most steps would be rounded away; `adamw_bf16` rounds at random instead.
    """
    if model_type != "full" or precision.base_model_default_dtype:
        return precision
    return replace(precision, base_model_default_dtype="bf16" if optimizer == "adamw_bf16" else "fp32")


def in_words(trained: Trained) -> str:
    """What is trained and how many numbers that is, for the person."""
    return f"trains {trained.what}: {sum(weight.numel() for weight in trained.weights.values()):,} parameters"
