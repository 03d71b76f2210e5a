"""Lets text encoders learn a LoRA beside what the denoiser learns, and puts both into the one file that is left."""

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

# In a checkpoint, beside what is trained of the denoiser.
TEXT_ENCODERS_FILE = "text_encoders.safetensors"


def with_text_encoders(
    trained: Trainable,
    *,
    text: TrainableTextEncoders,
    lora: LoraOptions,
    seed: int,
    pairs: Mapping[str, Pair] | None = None,
) -> Trainable:
    """`trained` and a plain LoRA of the same rank, alpha and dropout on each of the text encoders, as one.

    pairs: of the file `init_lora`, which they begin at. Raises ModelError where they do not fit.
    """
    plain = LoraOptions(lora_rank=lora.lora_rank, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout)
    weights: dict[str, nn.Parameter] = {}
    for prefix, encoder in text.module.named_children():
        attached = attach_lora(encoder, lora=plain, modules=text.lora_modules(encoder), seed=seed)
        weights |= {f"{prefix}.{name.removeprefix(EXPORT_PREFIX)}": weight for name, weight in attached.items()}
    if pairs:
        assert lora.init_file is not None, "the pairs are those of a file"
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
    """Put the text encoders' LoRA into a file that diffusers opens, in fp32, alpha / rank multiplied in."""
    with opened(file) as before:
        # Copies, as what is read is a map of the file, which is about to be written.
        tensors = {name: before.get_tensor(name).clone() for name in before.keys()}  # noqa: SIM118  # it is no mapping
        metadata = with_hash_to_come(before.metadata())
    said = json.loads(metadata[DIFFUSERS_ENTRY])
    for name, weight in weights.items():
        scale = lora.alpha / lora.lora_rank if name.endswith(UP) else 1.0
        tensors[name] = weight.detach().float().cpu() * scale
    for prefix in dict.fromkeys(name.partition(".")[0] for name in weights):
        layers = [name.removeprefix(f"{prefix}.").removesuffix(DOWN) for name in weights if _is_down(name, prefix)]
        said |= json.loads(header_entry(dict.fromkeys(layers, lora.lora_rank), prefix=f"{prefix}."))
    write_tensors(file, tensors, metadata=metadata | {DIFFUSERS_ENTRY: json.dumps(said, sort_keys=True)})


def _is_down(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.") and name.endswith(DOWN)
