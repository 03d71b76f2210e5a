"""Generates validation images during training and leaves the model as it was."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.files.prompt_library import (
    BUILT_IN,
    LibraryPrompt,
    file_names,
    parse_validation_sizes,
    read_prompts,
)
from helpers.config.options.validation import ValidationOptions
from helpers.dataloader.loader import EMPTY_CAPTION
from helpers.device import release_device_memory
from helpers.errors import ConfigError
from helpers.files import atomic_write
from helpers.models.family import ModelComponents, ModelFamily, SampleRequest, TextEmbedding, VaeSpec
from helpers.reporting.events import ValidationImagesSaved
from helpers.reporting.progress import stage
from helpers.reporting.publish.card_text import PNG_ENTRY
from helpers.reporting.reporter import Reporter
from helpers.training.memory import VALIDATING, MemoryNeeds, explain_out_of_memory
from helpers.training.plan import Interval
from helpers.training.signals import StopSignal

RANDOM_SEED_BITS = 32
ONLY_PROMPT, WITHOUT_PROMPT = "validation", "unconditional"


@dataclass(frozen=True, kw_only=True)
class ValidationImage:
    """An image to generate, with every setting besides the weights that affects it; stored in the PNG's header.

    name: of its prompt, safe in a file name. any_seed: whether the seed is random.
    """

    step: int
    name: str
    prompt: str
    negative_prompt: str
    guidance: float
    inference_steps: int
    width: int
    height: int
    seed: int
    any_seed: bool
    skip_layers: tuple[int, ...]
    skip_scale: float
    skip_start: float
    skip_stop: float
    base_model: str

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.width}x{self.height}_seed{self.seed}.png"

    def exists_in(self, folder: Path) -> bool:
        """Whether `folder` has it, generated from the same prompt and settings."""
        pattern = f"{self.name}_{self.width}x{self.height}_seed*.png" if self.any_seed else self.file_name
        ignored = {"seed": None} if self.any_seed else {}
        settings = json.loads(json.dumps(asdict(self))) | ignored
        return any(_settings_in(file) | ignored == settings for file in folder.glob(pattern))


def validation_prompts(options: ValidationOptions) -> tuple[str, ...]:
    """The texts that must be encoded for the validation images."""
    wanted = validation_images(options, step=0, base_model="")
    texts = [text for each in wanted for text in (each.prompt, each.negative_prompt if each.guidance > 1 else None)]
    return tuple(dict.fromkeys(text for text in texts if text is not None))


def validation_images(options: ValidationOptions, *, step: int, base_model: str) -> tuple[ValidationImage, ...]:
    """Each prompt in each of its sizes and seeds; random seeds if none is set."""
    prompts = _prompts(options)
    named = zip(file_names(prompts), prompts.values(), strict=True)
    return tuple(
        image
        for name, prompt in named
        for image in _images(name, prompt, options=options, step=step, base_model=base_model)
    )


def _images(
    name: str, prompt: LibraryPrompt, *, options: ValidationOptions, step: int, base_model: str
) -> Iterator[ValidationImage]:
    fixed = options.validation_seed.strip()
    own = int(fixed) if prompt.seed is None and fixed else prompt.seed
    first = secrets.randbits(RANDOM_SEED_BITS) if own is None else own
    negative = options.validation_negative_prompt if prompt.negative_prompt is None else prompt.negative_prompt
    for width, height in parse_validation_sizes(prompt.resolution or options.validation_resolution):
        for seed in range(first, first + options.num_validation_images):
            yield ValidationImage(
                step=step,
                name=name,
                prompt=prompt.prompt,
                negative_prompt=negative,
                guidance=options.validation_guidance if prompt.guidance is None else prompt.guidance,
                inference_steps=prompt.steps or options.validation_num_inference_steps,
                width=width,
                height=height,
                seed=seed,
                any_seed=own is None,
                skip_layers=options.skip_layers,
                skip_scale=options.validation_skip_layers_scale,
                skip_start=options.validation_skip_layers_start,
                skip_stop=options.validation_skip_layers_stop,
                base_model=base_model,
            )


def _prompts(options: ValidationOptions) -> dict[str, LibraryPrompt]:
    """Every prompt by name: the option's, the user's, the built-in ones, and the empty prompt beside a library."""
    prompts: dict[str, LibraryPrompt] = {}
    if options.validation_prompt:
        prompts[ONLY_PROMPT] = LibraryPrompt(prompt=options.validation_prompt)
    library: dict[str, LibraryPrompt] = {}
    if options.validation_prompt_library:
        library |= BUILT_IN
    if options.user_prompt_library:
        read, problems = read_prompts(Path(options.user_prompt_library).expanduser())
        if problems:  # the file was valid when the run began
            raise ConfigError(problems)
        library |= read
    if library and not options.validation_disable_unconditional:
        prompts[WITHOUT_PROMPT] = LibraryPrompt(prompt=EMPTY_CAPTION)
    # A user's prompt with one of these names takes precedence.
    return prompts | library


def _settings_in(file: Path) -> dict[str, object]:
    """The settings in an image's header; empty if it has none."""
    from PIL import Image

    with Image.open(file) as image:
        return json.loads(image.info.get(PNG_ENTRY, "{}"))


@dataclass(frozen=True, kw_only=True)
class ImageValidator:
    """The evaluator that generates validation images; without a prompt it does nothing.

    denoiser: the bare module, not as prepared for several processes. embedding: of a prompt. weights: a context in
    which the denoiser has the weights to validate. autocast: that of training. needs: the run's memory needs.
    """

    when: Interval
    name: str = "validation images"
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

    def evaluate(self, step: int, *, only_missing: bool = False) -> Mapping[str, float]:
        """Write the images of `step` and report their files; with `only_missing`, those that are not there.

        Training's modes, gradients and random state are unchanged afterwards. A requested stop ends it early.
        """
        folder = self.output_dir / "validation_images" / f"step_{step}"
        wanted = validation_images(self.options, step=step, base_model=self.parts.identity)
        if only_missing:
            wanted = tuple(image for image in wanted if not image.exists_in(folder))
        if not wanted or self.stop.requested:
            return {}
        device = next(self.denoiser.parameters()).device
        # Each training step seeds its own random numbers; this keeps other users of the global state undisturbed too.
        undisturbed = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with explain_out_of_memory(VALIDATING, self.needs), torch.no_grad(), undisturbed, self.weights():
            generated = self._generate(wanted)
        paths = tuple(_write(image, pixels, folder) for image, pixels in generated)
        if paths:
            captions = tuple(image.prompt for image, _ in generated)
            self.reporter.handle(ValidationImagesSaved(step=step, paths=paths, captions=captions))
        return {}

    def _generate(self, wanted: tuple[ValidationImage, ...]) -> list[tuple[ValidationImage, Tensor]]:
        """uint8 RGB pixels [H, W, 3] of each image; the VAE is loaded once, after the denoiser has finished."""
        latents: list[Tensor] = []
        with stage(self.reporter, "generate validation images", total=len(wanted), unit="images") as advance:
            for image in wanted:
                if self.stop.requested:
                    return []
                request = self._request(image)
                with self.autocast():  # not around the VAE, which has its own dtype
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
