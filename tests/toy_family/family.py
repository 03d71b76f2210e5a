"""The toy as one value."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from helpers.errors import ModelError
from helpers.models.family import (
    AdapterLayers,
    FamilyFacts,
    FamilyFormats,
    ModelComponents,
    ModelFamily,
    SampleRequest,
    TextEmbedding,
)
from helpers.models.formats.safetensors import LazyTensor, open_all, write_tensors
from helpers.models.memory import MemoryEstimate, TrainingMemory, Workload
from tests.toy_family import components
from tests.toy_family.components import CHANNELS, DOWNSCALE, HIDDEN, PIPELINE_CLASS, WEIGHTS, WIDTH

SHAPES = {"first": (HIDDEN, CHANNELS + 1 + WIDTH), "second": (CHANNELS, HIDDEN)}
FACTS = FamilyFacts(
    title="Toy",
    pipeline_class=PIPELINE_CLASS,
    hub_tag="toy-diffusion",
    architecture="toy-v1",
    variant_architectures={"Toy one": "toy-v1-one"},
    original_implementation="https://example.org/toy",
)


def toy_family() -> ModelFamily:
    return ModelFamily(
        name="toy",
        facts=FACTS,
        locate=components.locate,
        component_files=components.component_files,
        check_settings=lambda parts, config: (),
        text_parts=components.text_parts,
        assemble_text=_assemble_text,
        learning_text=_not_there,
        latent_part=components.latent_part,
        estimate_memory=_estimate_memory,
        load_denoiser=components.load_denoiser,
        blocks=lambda denoiser: [],
        enable_checkpointing=lambda denoiser, *, interval=1: None,
        adapter_layers=lambda parts: AdapterLayers(shapes=SHAPES, sets={}),
        lora_modules=lambda denoiser, target: list(SHAPES),
        predict=_predict,
        render=_render,
        write_pipeline=_write_pipeline,
        formats=FamilyFormats(
            open_base=lambda parts: open_all([parts.transformer / WEIGHTS]),
            open_single_file=_not_there,
            with_own_parts=lambda file, parts: parts,
            is_single_file=lambda names: False,
            write_single_file=_not_there,
            read_lora=_not_there,
            what_it_is=lambda names: "an unknown file",
            write_comfyui_lora=_not_there,
            comfyui_scales=_not_there,
            to_comfyui_lycoris=_not_there,
            has_full_differences=lambda names: False,
        ),
    )


def _not_there(*arguments: Any, **more: Any) -> NoReturn:
    raise ModelError("The toy cannot do this.")


def _assemble_text(outputs: Sequence[Mapping[str, Tensor]]) -> TextEmbedding:
    (output,) = outputs
    return TextEmbedding(prompt_embeds=output["hidden"], pooled=output["hidden"].mean(dim=-2))


def _estimate_memory(parts: ModelComponents, workload: Workload) -> MemoryEstimate:
    count = sum(outputs * (inputs + 1) for outputs, inputs in SHAPES.values())
    training = TrainingMemory(weights=4 * count, trained=0, gradients=0, optimizer=0, activations=0)
    return MemoryEstimate(
        caching_bytes=0, training_bytes=training.total, validation_bytes=0, overhead_bytes=0, training=training
    )


def _predict(
    denoiser: nn.Module,
    noisy: Tensor,
    sigmas: Tensor,
    prompt_embeds: Tensor,
    pooled: Tensor,
    tokens: Tensor | None = None,
) -> Tensor:
    return denoiser(noisy.to(next(denoiser.parameters()).dtype), sigmas, pooled)


@torch.no_grad()
def _render(denoiser: nn.Module, parts: ModelComponents, request: SampleRequest) -> Tensor:
    """Raw latents [1, C, h, w]; Euler's method from noise at sigma 1."""
    shape = (1, CHANNELS, request.height // DOWNSCALE, request.width // DOWNSCALE)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))
    for step in range(request.steps):
        sigmas = torch.tensor([1 - step / request.steps])
        latents = latents - denoiser(latents, sigmas, request.prompt.pooled[None]) / request.steps
    return latents / 2.0


def _write_pipeline(
    weights: Mapping[str, Tensor | LazyTensor],
    parts: ModelComponents,
    folder: Path,
    *,
    text: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    for place in (parts.vae, parts.scheduler, *parts.text_encoders):
        shutil.copytree(place, folder / place.name)
    (folder / parts.transformer.name).mkdir()
    write_tensors(folder / parts.transformer.name / WEIGHTS, weights, metadata=metadata)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINE_CLASS}))
