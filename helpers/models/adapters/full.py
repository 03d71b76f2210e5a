"""Trains the transformer's own weights: all of them, its biases, or the modules that were named."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from torch import Tensor, nn

from helpers.config.options.finetune import FullOptions
from helpers.errors import ModelError
from helpers.models.adapters.lora import match_modules, split_names
from helpers.models.adapters.trainable import Trainable
from helpers.models.family import ModelComponents
from helpers.models.formats.safetensors import copy_tensors, write_tensors

# In a checkpoint; with only what moves in it, so that biases do not take the room of all weights.
TRAINED_WEIGHTS_FILE = "transformer.safetensors"
PIPELINE = "pipeline"
WritePipeline = Callable[..., None]


def make_full_finetune(
    denoiser: nn.Module, *, options: FullOptions, parts: ModelComponents, write_pipeline: WritePipeline
) -> Trainable:
    """Let the chosen weights of a loaded `denoiser` move, in the dtype that it was loaded in.

    write_pipeline: see `ModelFamily`. Raises ModelError where no weight is left, or a module is not there.
    """
    weights = dict(denoiser.named_parameters())
    chosen = set(_chosen(list(weights), options))
    if not chosen:
        raise ModelError(
            "No weight is left to train: freeze_modules, train_modules and layer_freeze_strategy together leave none."
        )
    for name, weight in weights.items():
        weight.requires_grad_(name in chosen)
    moving = [name for name in weights if name in chosen]
    kept = list(denoiser.state_dict())

    def standing(names: list[str]) -> dict[str, Tensor]:
        """By name, as the model has them now: where it is divided among processes, its parameters are others."""
        now = {**dict(denoiser.named_parameters()), **dict(denoiser.named_buffers())}
        return {name: now[name] for name in names}

    def save(folder: Path, *, metadata: Mapping[str, str]) -> None:
        write_tensors(folder / TRAINED_WEIGHTS_FILE, standing(moving), metadata=metadata)

    def load(folder: Path) -> None:
        fix = "Set model_type, optimizer, base_model_default_dtype and the modules back to what it was saved with."
        copy_tensors(folder / TRAINED_WEIGHTS_FILE, into=standing(moving), fix=fix)

    def export(folder: Path, *, metadata: Mapping[str, str]) -> None:
        write_pipeline(standing(kept), parts, folder, text={}, metadata=metadata)

    return Trainable(
        summary=_in_words(options),
        weights={name: weights[name] for name in moving},
        metadata={name: str(value) for name, value in vars(options).items() if value},
        save=save,
        load=load,
        as_base=_no_base,
        output_name=PIPELINE,
        export=export,
    )


def _no_base(denoiser: nn.Module) -> AbstractContextManager[None]:
    raise AssertionError("the base is what moves; regularization data is refused where the settings are checked")


def _chosen(names: list[str], options: FullOptions) -> list[str]:
    """The weights among `names` that move."""
    chosen = names
    if options.train_modules:
        chosen = match_modules(names, split_names(options.train_modules), option="train_modules")
    if options.freeze_modules:
        frozen = set(match_modules(names, split_names(options.freeze_modules), option="freeze_modules"))
        chosen = [name for name in chosen if name not in frozen]
    if options.layer_freeze_strategy == "bitfit":
        chosen = [name for name in chosen if name.endswith(".bias")]
    return chosen


def _in_words(options: FullOptions) -> str:
    what = "the transformer's biases" if options.layer_freeze_strategy == "bitfit" else "the transformer"
    if options.train_modules:
        what += f", in {options.train_modules} only"
    return f"{what}, without {options.freeze_modules}" if options.freeze_modules else what
