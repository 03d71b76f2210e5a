"""Draws what the model makes of a prompt while it learns, borrowing the model and giving it back as it was."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.options.validation import ValidationOptions
from helpers.device import release_device_memory
from helpers.files import atomic_write
from helpers.models.family import ModelComponents, ModelFamily, SampleRequest, TextEmbedding, VaeSpec
from helpers.reporting.events import ValidationImagesSaved
from helpers.reporting.progress import stage
from helpers.reporting.publish.card_text import PNG_ENTRY
from helpers.reporting.reporter import Reporter
from helpers.training.images import ValidationImage, validation_images
from helpers.training.memory import VALIDATING, MemoryNeeds, explain_out_of_memory
from helpers.training.signals import StopSignal


@dataclass(frozen=True, kw_only=True)
class ImageValidator:
    """Draws the validation images of a run; nothing where there is no prompt.

    denoiser: the bare module, not as prepared for several processes. embedding: a caption as the model is given it.
    weights: a context in which the denoiser has the weights to draw with. autocast: the one that training computes in.
    needs: the run's, of memory.
    """

    options: ValidationOptions
    family: ModelFamily
    parts: ModelComponents
    denoiser: nn.Module
    weights: Callable[[], AbstractContextManager[None]]
    autocast: Callable[[], AbstractContextManager[Any]]
    latent_part: VaeSpec
    needs: Callable[[], MemoryNeeds]
    embedding: Callable[[str], TextEmbedding]
    output_dir: Path
    stop: StopSignal
    reporter: Reporter

    def generate(self, step: int, *, only_missing: bool = False) -> None:
        """Write the images of `step`; `only_missing`: those that are not there, drawn as they would be now.

        Training's modes, gradients and random state are afterwards what they were. A requested stop ends it early.
        """
        folder = self.output_dir / "validation_images" / f"step_{step}"
        wanted = validation_images(self.options, step=step, base_model=self.parts.identity)
        if only_missing:
            wanted = tuple(image for image in wanted if not image.is_drawn(folder))
        if not wanted or self.stop.requested:
            return
        device = next(self.denoiser.parameters()).device
        # Training seeds what it draws at each step, so it would not notice; whoever else draws does not either.
        undisturbed = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with explain_out_of_memory(VALIDATING, self.needs), torch.no_grad(), undisturbed, self.weights():
            drawn = self._draw(wanted)
        paths = tuple(_write(image, pixels, folder) for image, pixels in drawn)
        if paths:
            captions = tuple(image.prompt for image, _ in drawn)
            self.reporter.handle(ValidationImagesSaved(step=step, paths=paths, captions=captions))

    def _draw(self, wanted: tuple[ValidationImage, ...]) -> list[tuple[ValidationImage, Tensor]]:
        """uint8 RGB pixels [H, W, 3] of each image; the VAE is loaded once, after the denoiser has done its part."""
        latents: list[Tensor] = []
        with stage(self.reporter, "draw validation images", total=len(wanted), unit="images") as advance:
            for image in wanted:
                if self.stop.requested:
                    return []
                request = self._request(image)
                with self.autocast():  # not around the VAE, which has a dtype of its own
                    latents.append(self.family.render(self.denoiser, self.parts, request))
                advance()
            vae = self.latent_part.load()
            pixels = [vae.decode(each, tiled=self.options.vae_enable_tiling)[0] for each in latents]
        del vae
        release_device_memory()
        return list(zip(wanted, pixels, strict=True))

    def _request(self, image: ValidationImage) -> SampleRequest:
        return SampleRequest(
            prompt=self.embedding(image.prompt),
            negative=self.embedding(image.negative_prompt) if image.guidance > 1 else None,
            width=image.width,
            height=image.height,
            steps=image.inference_steps,
            guidance=image.guidance,
            seed=image.seed,
            skip_layers=image.skip_layers if image.guidance > 1 else (),
            skip_scale=image.skip_scale,
            skip_start=image.skip_start,
            skip_stop=image.skip_stop,
        )


def _write(image: ValidationImage, pixels: Tensor, folder: Path) -> Path:
    from PIL import Image, PngImagePlugin

    header = PngImagePlugin.PngInfo()
    header.add_itxt(PNG_ENTRY, json.dumps(asdict(image)))
    encoded = Image.fromarray(pixels.numpy())
    return atomic_write(folder / image.file_name, lambda path: encoded.save(path, format="PNG", pnginfo=header))
