"""Builds the trainable weights for each `model_type`."""

from functools import partial
from pathlib import Path

from torch import nn

from helpers.config.files.lycoris import needed_lycoris
from helpers.config.options.finetune import FullOptions
from helpers.config.options.model import LoraOptions
from helpers.models.adapters.full import make_full_finetune
from helpers.models.adapters.lora import make_lora
from helpers.models.adapters.lycoris import make_lycoris
from helpers.models.adapters.trainable import Trainable
from helpers.models.family import ModelComponents, ModelFamily
from helpers.models.formats.lora import of_transformer


def build_trainable(
    denoiser: nn.Module,
    *,
    model_type: str,
    lora: LoraOptions,
    full: FullOptions,
    family: ModelFamily,
    parts: ModelComponents,
    seed: int,
) -> Trainable:
    """The trainable weights that `model_type` selects or adds in the loaded, frozen `denoiser`, changed in place.

    Raises ModelError if nothing is left to train, or if a named module does not exist.
    """
    match model_type:
        case "lora" if lora.lora_type == "lycoris":
            return make_lycoris(denoiser, config=needed_lycoris(Path(lora.lycoris_config or "")), seed=seed)
        case "lora":
            modules = family.lora_modules(denoiser, lora.lora_target)
            base = partial(family.formats.open_base, parts)
            pairs = of_transformer(family.formats.read_lora(lora.init_file)) if lora.init_file else {}
            return make_lora(denoiser, modules=modules, lora=lora, seed=seed, base=base, pairs=pairs)
        case "full":
            return make_full_finetune(denoiser, options=full, write_pipeline=family.write_pipeline, parts=parts)
        case unknown:
            raise AssertionError(f"model_type {unknown} is declared but not implemented")


def describe(trained: Trainable) -> str:
    """A description of what is trained, with the number of parameters."""
    return f"trains {trained.summary}: {sum(weight.numel() for weight in trained.weights.values()):,} parameters"
