"""The toy's files, its denoiser, its VAE (means of 8 x 8 pixels) and its text encoder (a table of bytes)."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.errors import BrokenModelError, Problem
from helpers.models.family import ModelComponents, TextEncoderSpec, VaeSpec
from helpers.models.formats.fingerprint import files_fingerprint, fingerprint

PIPELINE_CLASS = "ToyPipeline"
CHANNELS, DOWNSCALE = 3, 8
LENGTH, WIDTH = 16, 8
HIDDEN = 12
WEIGHTS = "model.safetensors"
FOLDERS = DENOISER, VAE, TEXT, SCHEDULER = "denoiser", "vae", "bytes", "scheduler"


class ToyDenoiser(nn.Module):
    """Predicts [B, C, h, w] from latents [B, C, h, w], sigmas [B] and a pooled caption [B, WIDTH], pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(CHANNELS + 1 + WIDTH, HIDDEN)
        self.second = nn.Linear(HIDDEN, CHANNELS)

    def forward(self, noisy: Tensor, sigmas: Tensor, pooled: Tensor) -> Tensor:
        pixels = noisy.movedim(1, -1)
        context = torch.cat([sigmas[:, None], pooled], dim=1).to(pixels)
        context = context[:, None, None].expand(*pixels.shape[:3], -1)
        return self.second(torch.tanh(self.first(torch.cat([pixels, context], dim=-1)))).movedim(-1, 1)


class ToyVae:
    """See `LatentEncoder`."""

    def encode(self, pixels: Tensor, *, at_most: int | None = None) -> Tensor:
        colors = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return nn.functional.avg_pool2d(colors, DOWNSCALE)

    def decode(self, latents: Tensor, *, tiled: bool = False) -> Tensor:
        colors = nn.functional.interpolate(latents.float().cpu(), scale_factor=DOWNSCALE).clamp(-1, 1)
        return ((colors + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class ToyTextEncoder:
    """See `TextEncoder`: `hidden` [B, LENGTH, WIDTH] of a caption's first bytes."""

    def __init__(self, folder: Path) -> None:
        self._table = load_file(folder / WEIGHTS)["table"]

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        ids = [list(caption.encode()[:LENGTH].ljust(LENGTH, b"\0")) for caption in captions]
        return {"hidden": self._table[torch.tensor(ids)].bfloat16()}


def write_toy(folder: Path) -> Path:
    """A base model with random weights, and a card that states its license."""
    generator = torch.Generator().manual_seed(0)
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINE_CLASS}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA toy.\n")
    weights = {name: torch.randn(w.shape, generator=generator) / 4 for name, w in ToyDenoiser().state_dict().items()}
    save_file(weights, folder / DENOISER / WEIGHTS)
    save_file({"table": torch.randn(256, WIDTH, generator=generator)}, folder / TEXT / WEIGHTS)
    return folder


def locate(options: ModelOptions) -> ModelComponents:
    folder = Path(options.pretrained_model_name_or_path)
    missing = [part for part in (DENOISER, TEXT) if not (folder / part / WEIGHTS).is_file()]
    if missing:
        reason = f"it has no {' and no '.join(missing)}"
        raise BrokenModelError([Problem(option="MODEL_NAME", value=str(folder), reason=reason, fix="copy it again")])
    return ModelComponents(
        name=str(folder),
        variant="Toy one",
        identity=files_fingerprint([folder / DENOISER / WEIGHTS]),
        flow_shift=1.0,
        longest_edge_px=4096,
        weights_variant=None,
        transformer=folder / DENOISER,
        vae=folder / VAE,
        scheduler=folder / SCHEDULER,
        text_encoders=(folder / TEXT,),
        tokenizers=(),
    )


def component_files(parts: ModelComponents) -> dict[str, tuple[Path, ...]]:
    return {place.name: (place / WEIGHTS,) for place in (parts.transformer, *parts.text_encoders)}


def text_parts(
    parts: ModelComponents, options: TextOptions, precision: PrecisionOptions, device: torch.device
) -> tuple[TextEncoderSpec, ...]:
    (folder,) = parts.text_encoders
    return (
        TextEncoderSpec(
            name=TEXT,
            identity=files_fingerprint([folder / WEIGHTS]),
            batch_size=4,
            bytes_per_caption=LENGTH * WIDTH * 2,
            load=lambda: ToyTextEncoder(folder),
        ),
    )


def latent_part(
    parts: ModelComponents, precision: PrecisionOptions, device: torch.device, *, vae_batch_size: int = 4
) -> VaeSpec:
    identity = fingerprint("toy VAE", str(DOWNSCALE))
    return VaeSpec(identity=identity, shift=0.0, scale=2.0, channels=CHANNELS, downscale=DOWNSCALE, load=ToyVae)


def load_denoiser(
    parts: ModelComponents, precision: PrecisionOptions, device: torch.device, *, waiting: int = 0
) -> nn.Module:
    denoiser = ToyDenoiser()
    denoiser.load_state_dict(load_file(parts.transformer / WEIGHTS))
    return denoiser.to(device).requires_grad_(False).eval()
