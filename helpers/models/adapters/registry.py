"""Every kind of training by its name: the one place that knows them all."""

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
    """What `model_type` trains of the loaded, frozen `denoiser`, which is changed in place.

    Raises ModelError where nothing is left to train, or a module is named that the model lacks.
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
            raise AssertionError(f"model_type {unknown} is declared and not built")


def describe(trained: Trainable) -> str:
    """What is trained and how many numbers that is, for the person."""
    return f"trains {trained.summary}: {sum(weight.numel() for weight in trained.weights.values()):,} parameters"
