"""A second family: a denoiser of its own, two layers over each latent pixel, with SD3's VAE and text encoders."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from helpers.config.options.model import PrecisionOptions
from helpers.models.family import AdapterLayers, FamilyFacts, ModelComponents, ModelFamily
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.weights.component_files import read_config

LAYERS = ("first", "second")
FACTS = FamilyFacts(
    title="Toy",
    pipeline_class="ToyPipeline",
    hub_tag="toy-diffusion",
    architecture="toy-v1",
    original_implementation="https://example.org/toy",
)


class ToyDenoiser(nn.Module):
    """Predicts [B, C, h, w] from latents [B, C, h, w], pixel by pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels)

    def forward(self, noisy: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(noisy.movedim(1, -1)))).movedim(-1, 1)


def toy_family() -> ModelFamily:
    return replace(
        sd3_family(),
        name="toy",
        facts=FACTS,
        check_settings=lambda parts, config: (),
        load_denoiser=_load,
        blocks=lambda denoiser: [],
        enable_checkpointing=lambda denoiser, *, interval=1: None,
        adapter_layers=_adapter_layers,
        lora_modules=lambda denoiser, target: list(LAYERS),
        predict=_predict,
    )


def _channels(parts: ModelComponents) -> int:
    return int(read_config(parts.vae)["latent_channels"])


def _load(parts: ModelComponents, precision: PrecisionOptions, device: torch.device, *, waiting: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ToyDenoiser(_channels(parts)).to(device).requires_grad_(False).eval()


def _adapter_layers(parts: ModelComponents) -> AdapterLayers:
    size = _channels(parts)
    return AdapterLayers(shapes=dict.fromkeys(LAYERS, (size, size)), sets={})


def _predict(
    denoiser: nn.Module,
    noisy: Tensor,
    sigmas: Tensor,
    prompt_embeds: Tensor,
    pooled: Tensor,
    tokens: Tensor | None = None,
) -> Tensor:
    return denoiser(noisy.to(next(denoiser.parameters()).dtype))
