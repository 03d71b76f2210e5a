"""Trains a LoRA on the text encoders together with the denoiser, and exports both to one file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from helpers.config.options.model import LoraOptions
from helpers.models.adapters.lora import attach_lora, load_initial_weights, lora_disabled
from helpers.models.adapters.trainable import Trainable
from helpers.models.family import TrainableTextEncoders
from helpers.models.formats.lora import DIFFUSERS_ENTRY, DOWN, EXPORT_PREFIX, UP, Pair, header_entry
from helpers.models.formats.safetensors import copy_tensors, opened, with_hash_to_come, write_tensors

# In a checkpoint, next to the denoiser's trained weights.
TEXT_ENCODERS_FILE = "text_encoders.safetensors"


def with_text_encoders(
    trained: Trainable,
    *,
    text: TrainableTextEncoders,
    lora: LoraOptions,
    seed: int,
    pairs: Mapping[str, Pair] | None = None,
) -> Trainable:
    """`trained` plus a plain LoRA of the same rank, alpha and dropout on each text encoder.

    pairs: the matrices of the file `init_lora`, to start from. Raises ModelError if they do not fit.
    """
    plain = LoraOptions(lora_rank=lora.lora_rank, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout)
    weights: dict[str, nn.Parameter] = {}
    for prefix, encoder in text.module.named_children():
        attached = attach_lora(encoder, lora=plain, modules=text.lora_modules(encoder), seed=seed)
        weights |= {f"{prefix}.{name.removeprefix(EXPORT_PREFIX)}": weight for name, weight in attached.items()}
    if pairs:
        assert lora.init_file is not None, "pairs come from init_lora"
        load_initial_weights(lora.init_file, pairs, weights=weights, lora=plain, option="TRAIN_TEXT_ENCODER")

    def save(folder: Path, *, metadata: Mapping[str, str]) -> None:
        trained.save(folder, metadata=metadata)
        write_tensors(folder / TEXT_ENCODERS_FILE, weights, metadata=metadata)

    def load(folder: Path) -> None:
        trained.load(folder)
        copy_tensors(folder / TEXT_ENCODERS_FILE, into=weights, fix="Set lora_rank back to what it was saved with.")

    def export(file: Path, *, metadata: Mapping[str, str]) -> None:
        trained.export(file, metadata=metadata)
        _add_to_file(file, weights, lora=plain)

    @contextmanager
    def as_base(denoiser: nn.Module) -> Iterator[None]:
        with trained.as_base(denoiser), lora_disabled(text.module):
            yield

    layers = sum(name.endswith(DOWN) for name in weights)
    return Trainable(
        summary=f"{trained.summary}, and one on {layers} layers of the text encoders",
        weights={**trained.weights, **weights},
        metadata={**trained.metadata, "text_encoders": ", ".join(name for name, _ in text.module.named_children())},
        save=save,
        load=load,
        as_base=as_base,
        output_name=trained.output_name,
        export=export,
    )


def _add_to_file(file: Path, weights: Mapping[str, Tensor], *, lora: LoraOptions) -> None:
    """Add the text encoders' LoRA to a file for diffusers, in fp32, with alpha / rank multiplied in."""
    with opened(file) as before:
        # Copies, because the tensors map the file that is about to be overwritten.
        tensors = {name: before.get_tensor(name).clone() for name in before.keys()}  # noqa: SIM118  # not a mapping
        metadata = with_hash_to_come(before.metadata())
    entries = json.loads(metadata[DIFFUSERS_ENTRY])
    for name, weight in weights.items():
        scale = lora.alpha / lora.lora_rank if name.endswith(UP) else 1.0
        tensors[name] = weight.detach().float().cpu() * scale
    for prefix in dict.fromkeys(name.partition(".")[0] for name in weights):
        layers = [name.removeprefix(f"{prefix}.").removesuffix(DOWN) for name in weights if _is_down(name, prefix)]
        entries |= json.loads(header_entry(dict.fromkeys(layers, lora.lora_rank), prefix=f"{prefix}."))
    write_tensors(file, tensors, metadata=metadata | {DIFFUSERS_ENTRY: json.dumps(entries, sort_keys=True)})


def _is_down(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and name.endswith(DOWN)
