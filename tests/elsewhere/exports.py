"""Writes every kind of export of a small model, and what the trainer predicts with each: read by `open_exports.py`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.config.options.finetune import FullOptions
from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions, TextOptions
from helpers.config.options.output import ExportOptions
from helpers.models.adapters.registry import build_trainable
from helpers.models.adapters.text_encoders import with_text_encoders
from helpers.models.adapters.trainable import Trainable
from helpers.models.conversions import to_diffusers_lora
from helpers.models.family import TextEmbedding
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.export import export_result
from helpers.training.optim.ema import Ema, NoAverage
from tests.unit.models.lora import KINDS as VARIANTS

PROMPT = "a red square"
CPU = torch.device("cpu")
LEARN_TEXT = TextOptions(train_text_encoder=True)
PRECISION = PrecisionOptions(mixed_precision="no")
RANKS = "attn.to_q=8,transformer_blocks.0=2"
LOHA = {"algo": "loha", "linear_dim": 4, "linear_alpha": 2, "apply_preset": {"target_module": ["Attention"]}}


NOTHING_MORE = ExportOptions()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of export. opened: the file or folder that it is about, and how `open_exports.py` opens it.

    checkpoint: of what a checkpoint's folder holds, not of the finished file. converted: to ComfyUI's names and back.
    variant: of the base, see `tests.unit.models.lora`. since: the first diffusers that can read it right.
    """

    lora: Mapping[str, Any]
    opened: tuple[str, str] = ("pytorch_lora_weights.safetensors", "lora")
    model_type: str = "lora"
    text_encoders: bool = False
    average: bool = False
    checkpoint: bool = False
    converted: bool = False
    more: ExportOptions = NOTHING_MORE
    variant: str = "SD3 medium"
    since: str = "0.31"


KINDS: Mapping[str, Kind] = {
    "LoRA": Kind(lora={}),
    "LoRA on every layer": Kind(lora={"lora_target": "*"}),
    "LoRA on SD3.5 medium": Kind(lora={}, variant="SD3.5 medium"),
    "LoRA on SD3.5 large": Kind(lora={}, variant="SD3.5 large"),
    "`LORA_RANKS`": Kind(lora={"lora_ranks": RANKS}),
    "`USE_RSLORA`": Kind(lora={"use_rslora": True}),
    "`USE_DORA`": Kind(lora={"use_dora": True}, since="0.32"),
    "PiSSA": Kind(lora={"lora_init_type": "pissa"}),
    "LoRA, text encoders too": Kind(lora={}, text_encoders=True),
    "`USE_DORA`, text encoders too": Kind(lora={"use_dora": True}, text_encoders=True, since="0.32"),
    "`USE_EMA`": Kind(lora={}, average=True),
    "ComfyUI LoRA, converted back": Kind(lora={"lora_ranks": RANKS}, converted=True),
    "LyCORIS (LoHa), with `lycoris`": Kind(
        lora={"lora_type": "lycoris"}, opened=("pytorch_lora_weights.safetensors", "lycoris")
    ),
    "`pipeline`, merged": Kind(
        lora={}, text_encoders=True, opened=("pipeline", "pipeline"), more=ExportOptions(export_merged=True)
    ),
    "`pipeline`, trained in full": Kind(lora={}, opened=("pipeline", "pipeline"), model_type="full"),
    "`single_file.safetensors`": Kind(
        lora={}, opened=("single_file.safetensors", "single_file"), more=ExportOptions(export_single_file=True)
    ),
    "a checkpoint's LoRA, alpha = rank": Kind(lora={"lora_alpha": 4.0}, checkpoint=True),
    "a checkpoint's LoRA, alpha not rank": Kind(lora={}, checkpoint=True, since="0.34"),
    "a checkpoint's `LORA_RANKS`": Kind(lora={"lora_ranks": RANKS, "lora_alpha": 4.0}, checkpoint=True, since="0.34"),
}


def write_exports(folder: Path, *, kinds: Mapping[str, Kind] = KINDS) -> None:
    """Fill `folder`: the base models, one numbered folder for each kind, the predictions' inputs, and `kinds.json`.

    Alpha is not the rank, unless a kind sets it.
    """
    inputs = _inputs()
    save_file(inputs, folder / "inputs.safetensors")
    listed = []
    for number, (name, kind) in enumerate(kinds.items()):
        place = folder / str(number)
        place.mkdir()
        base = make_tiny_pipeline(folder / kind.variant.replace(" ", "-"), **VARIANTS[kind.variant])
        expected = _written(place, kind, base=base, inputs=inputs)
        save_file({name: tensor.contiguous() for name, tensor in expected.items()}, place / "expected.safetensors")
        file, how = kind.opened
        listed.append(
            {
                "name": name,
                "base": str(base),
                "place": str(number),
                "file": file,
                "how": how,
                "text": kind.text_encoders,
            }
        )
    (folder / "kinds.json").write_text(json.dumps({"prompt": PROMPT, "kinds": listed}))


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"noisy": (1, 16, 8, 8), "prompt_embeds": (1, 77, 48), "pooled": (1, 40)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**drawn, "sigma": torch.tensor([0.6])}


def _written(place: Path, kind: Kind, *, base: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write what a run of that kind leaves; what the trainer predicts, before and after."""
    family = sd3_family()
    parts = family.locate(ModelOptions(pretrained_model_name_or_path=str(base)))
    (place / "loha.json").write_text(json.dumps(LOHA))
    lora = replace(LoraOptions(lora_rank=4, lora_alpha=3.0, lycoris_config=str(place / "loha.json")), **kind.lora)
    denoiser = family.load_denoiser(parts, PRECISION, CPU)
    said = TextEmbedding(prompt_embeds=inputs["prompt_embeds"], pooled=inputs["pooled"])
    learning = family.learning_text(parts, LEARN_TEXT, PRECISION, CPU) if kind.text_encoders else None

    @torch.no_grad()
    def predicted() -> Tensor:
        text = learning.embeddings(learning.tokens(PROMPT)[None], torch.zeros(1, 0, 48)) if learning else said
        return family.predict(denoiser, inputs["noisy"], inputs["sigma"], text.prompt_embeds, text.pooled)

    before = predicted()
    trained = build_trainable(
        denoiser, model_type=kind.model_type, lora=lora, full=FullOptions(), family=family, parts=parts, seed=0
    )
    if learning:
        trained = with_text_encoders(trained, text=learning, lora=lora, seed=0)
    average = Ema(trained.weights, decay=0.5, interval=1, device="cpu") if kind.average else NoAverage()
    _learn(trained)
    average.update(1)
    with average.applied():
        _export(place, kind, trained=trained, base=parts)
        return {"prediction": predicted(), "before": before}


def _learn(trained: Trainable) -> None:
    """Move every number that is trained, as a run would, but further."""
    generator = torch.Generator().manual_seed(7)
    for weight in trained.weights.values():
        moved = 0.1 * torch.randn(weight.shape, generator=generator)
        weight.data.add_(moved)


def _export(place: Path, kind: Kind, *, trained: Trainable, base: Any) -> None:
    family = sd3_family()
    if kind.checkpoint:
        trained.save(place, metadata={})
        return
    more = replace(kind.more, export_comfyui=kind.converted)
    written = export_result(
        place, trained=trained, metadata={}, more=more, parts=base, family=family, reporter=Reporter()
    )
    files = list(written)
    if kind.converted:
        files[0].unlink()
        to_diffusers_lora(files[1], files[0], base=None, family=family)
