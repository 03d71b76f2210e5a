"""Full finetuning: trains the transformer's own weights, all of them, its biases only, or the named modules."""

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

# In a checkpoint; holds the trained weights only, so that training the biases saves small files.
TRAINED_WEIGHTS_FILE = "transformer.safetensors"
PIPELINE = "pipeline"
WritePipeline = Callable[..., None]


def make_full_finetune(
    denoiser: nn.Module, *, options: FullOptions, parts: ModelComponents, write_pipeline: WritePipeline
) -> Trainable:
    """Make the selected weights of a loaded `denoiser` trainable, in the dtype they were loaded in.

    write_pipeline: see `ModelFamily`. Raises ModelError if no weight is left, or a module does not exist.
    """
    weights = dict(denoiser.named_parameters())
    chosen = set(_chosen(list(weights), options))
    if not chosen:
        raise ModelError(
            "No weights are left to train with this freeze_modules, train_modules and layer_freeze_strategy."
        )
    for name, weight in weights.items():
        weight.requires_grad_(name in chosen)
    trained = [name for name in weights if name in chosen]
    kept = list(denoiser.state_dict())

    def current(names: list[str]) -> dict[str, Tensor]:
        """The model's current tensors by name; when it is sharded among processes, its parameters were replaced."""
        now = {**dict(denoiser.named_parameters()), **dict(denoiser.named_buffers())}
        return {name: now[name] for name in names}

    def save(folder: Path, *, metadata: Mapping[str, str]) -> None:
        write_tensors(folder / TRAINED_WEIGHTS_FILE, current(trained), metadata=metadata)

    def load(folder: Path) -> None:
        fix = "Set model_type, optimizer, base_model_default_dtype and the modules back to what it was saved with."
        copy_tensors(folder / TRAINED_WEIGHTS_FILE, into=current(trained), fix=fix)

    def export(folder: Path, *, metadata: Mapping[str, str]) -> None:
        write_pipeline(current(kept), parts, folder, text={}, metadata=metadata)

    return Trainable(
        summary=_in_words(options),
        weights={name: weights[name] for name in trained},
        metadata={name: str(value) for name, value in vars(options).items() if value},
        save=save,
        load=load,
        as_base=_no_base,
        output_name=PIPELINE,
        export=export,
    )


def _no_base(denoiser: nn.Module) -> AbstractContextManager[None]:
    raise AssertionError("full finetuning keeps no base; the settings checks refuse regularization data")


def _chosen(names: list[str], options: FullOptions) -> list[str]:
    """The weights among `names` that are trained."""
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
