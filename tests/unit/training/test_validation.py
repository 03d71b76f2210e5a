"""Validation images show what was asked for and leave training as it was; the exported file draws the same."""

import gc
import json
import signal
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from helpers.config.options.finetune import FullOptions
from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions, TextOptions
from helpers.config.options.output import ExportOptions
from helpers.config.options.validation import ValidationOptions
from helpers.models.adapters.registry import build_trainable
from helpers.models.adapters.trainable import Trainable
from helpers.models.family import ModelComponents, ModelFamily, SampleRequest, TextEmbedding
from helpers.models.registry import families
from helpers.reporting.events import ValidationImagesSaved
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.export import export_result
from helpers.training.checkpoint.provenance import provenance
from helpers.training.plan import Interval
from helpers.training.signals import StopSignal
from helpers.training.validation.images import ImageValidator, validation_prompts
from tests.unit.training.small_run import Events

CPU = torch.device("cpu")
PRECISION = PrecisionOptions(mixed_precision="no")
LORA = LoraOptions(lora_rank=2, lora_alpha=6.0, lora_dropout=0.5)
OPTIONS = ValidationOptions(
    validation_prompt="a cat",
    validation_negative_prompt="blur",
    validation_num_inference_steps=2,
    validation_resolution="64,64x128,64",
    validation_seed="7",
)

Model = tuple[ModelFamily, ModelComponents, nn.Module, Trainable]
PainterWith = Callable[..., tuple[ImageValidator, Events]]


@pytest.fixture(scope="module")
def model(tiny_pipeline: Path) -> Model:
    """The small SD3 with an adapter that changes what it draws."""
    family = families()["sd3"]
    parts = family.locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))
    denoiser = family.load_denoiser(parts, PRECISION, CPU)
    trained = build_trainable(
        denoiser, model_type="lora", lora=LORA, full=FullOptions(), family=family, parts=parts, seed=0
    )
    with torch.no_grad():
        for number, weight in enumerate(trained.weights.values()):
            weight.normal_(std=0.1, generator=torch.Generator().manual_seed(number))
    return family, parts, denoiser, trained


@pytest.fixture
def painter_with(model: Model, tmp_path: Path) -> PainterWith:
    """A painter of the small model, and what it tells."""
    family, parts, denoiser, _ = model

    def make(options: ValidationOptions = OPTIONS, **changes: Any) -> tuple[ImageValidator, Events]:
        events = Events()
        painter = ImageValidator(
            when=Interval(steps=1),
            options=options,
            family=family,
            parts=parts,
            denoiser=denoiser,
            weights=nullcontext,
            autocast=nullcontext,
            latent_part=family.latent_part(parts, PRECISION, CPU, vae_batch_size=1),
            needs=lambda: pytest.fail("memory sufficed"),
            embedding=embedding,
            output_dir=tmp_path,
            stop=StopSignal(),
            reporter=Reporter([events]),
        )
        return replace(painter, **changes), events

    return make


def embedding(caption: str) -> TextEmbedding:
    draw = torch.Generator().manual_seed(len(caption))
    return TextEmbedding(prompt_embeds=torch.randn(10, 48, generator=draw), pooled=torch.randn(40, generator=draw))


def names(events: Events) -> list[list[str]]:
    return [[path.name for path in event.paths] for event in events if isinstance(event, ValidationImagesSaved)]


def test_each_size_has_its_own_file_that_says_what_it_shows(painter_with: PainterWith, tmp_path: Path) -> None:
    painter, events = painter_with()
    painter.evaluate(12)
    assert names(events) == [["validation_64x64_seed7.png", "validation_64x128_seed7.png"]]
    with Image.open(tmp_path / "validation_images" / "step_12" / "validation_64x128_seed7.png") as image:
        assert image.size == (64, 128)
        said = json.loads(image.info["simpletuner"])
    assert (said["prompt"], said["negative_prompt"], said["seed"], said["step"]) == ("a cat", "blur", 7, 12)
    assert len(list((tmp_path / "validation_images" / "step_12").iterdir())) == 2


def test_training_is_left_as_it_was(model: Model, painter_with: PainterWith) -> None:
    _, _, denoiser, trained = model
    weights = trained.weights
    denoiser.train()
    first = next(denoiser.children())
    first.eval()  # a mode of one part is a part of the state
    modes = [module.training for module in denoiser.modules()]
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    state = torch.get_rng_state()
    painter_with()[0].evaluate(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in denoiser.modules()] == modes
    assert all(weight.grad is not None and weight.grad.eq(1).all() for weight in weights.values())
    assert all(weight.requires_grad for weight in weights.values())
    assert torch.is_grad_enabled()
    for weight in weights.values():
        weight.grad = None


def test_one_seed_draws_one_image_and_dropout_is_off(painter_with: PainterWith, tmp_path: Path) -> None:
    painter, _ = painter_with(replace(OPTIONS, validation_resolution="64"))
    painter.evaluate(1)
    torch.manual_seed(5)
    painter.evaluate(2)
    first, second = (tmp_path / "validation_images" / f"step_{step}" for step in (1, 2))
    pixels = [Image.open(folder / "validation_64x64_seed7.png").tobytes() for folder in (first, second)]
    assert pixels[0] == pixels[1]


def test_without_a_seed_every_time_is_another(painter_with: PainterWith) -> None:
    painter, events = painter_with(replace(OPTIONS, validation_seed="", validation_resolution="64"))
    painter.evaluate(1)
    painter.evaluate(2)
    (first,), (second,) = names(events)
    assert first != second
    painter.evaluate(2, only_missing=True)
    assert len(names(events)) == 2


def test_only_missing_ones_are_drawn_again(painter_with: PainterWith, tmp_path: Path) -> None:
    painter, events = painter_with()
    painter.evaluate(0, only_missing=True)
    painter.evaluate(0, only_missing=True)
    assert len(names(events)) == 1
    (tmp_path / "validation_images" / "step_0" / "validation_64x64_seed7.png").unlink()
    painter.evaluate(0, only_missing=True)
    assert names(events)[1:] == [["validation_64x64_seed7.png"]]
    other, told = painter_with(replace(OPTIONS, validation_prompt="a dog"))
    other.evaluate(0, only_missing=True)
    assert len(names(told)[0]) == 2


def test_guidance_of_one_or_less_needs_no_negative_prompt(model: Model, painter_with: PainterWith) -> None:
    asked: list[SampleRequest] = []

    def render(denoiser: nn.Module, parts: ModelComponents, request: SampleRequest) -> torch.Tensor:
        asked.append(request)
        return model[0].render(denoiser, parts, request)

    for guidance in (1.0, 1.1):
        options = replace(OPTIONS, validation_guidance=guidance, validation_resolution="64")
        painter_with(options, family=replace(model[0], render=render))[0].evaluate(1)
    assert [request.negative is None for request in asked] == [True, False]
    assert validation_prompts(replace(OPTIONS, validation_guidance=1.0)) == ("a cat",)
    assert validation_prompts(OPTIONS) == ("a cat", "blur")


def test_the_denoiser_computes_under_trainings_autocast_and_the_vae_does_not(
    model: Model, painter_with: PainterWith
) -> None:
    family, parts, denoiser, _ = model
    formats: set[torch.dtype] = set()
    part = family.latent_part(parts, PRECISION, CPU, vae_batch_size=1)
    decoder = part.load()

    class Watched:
        def decode(self, latents: torch.Tensor, *, tiled: bool) -> torch.Tensor:
            assert not torch.is_autocast_enabled("cpu")
            return decoder.decode(latents, tiled=tiled)

    def bf16() -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    linear = [layer for layer in denoiser.modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_hook(lambda _, inputs, output: formats.add(output.dtype)) for layer in linear]
    try:
        watched: Any = replace(part, load=Watched)
        painter, events = painter_with(replace(OPTIONS, validation_resolution="64"), autocast=bf16, latent_part=watched)
        painter.evaluate(1)
    finally:
        for handle in handles:
            handle.remove()
    assert formats == {torch.bfloat16}
    assert names(events) == [["validation_64x64_seed7.png"]]


def test_without_a_prompt_nothing_is_drawn_or_encoded(painter_with: PainterWith, tmp_path: Path) -> None:
    options = replace(OPTIONS, validation_prompt=None)
    painter_with(options)[0].evaluate(1)
    assert not list(tmp_path.iterdir())
    assert validation_prompts(options) == ()


def test_a_requested_stop_ends_drawing_early(painter_with: PainterWith, tmp_path: Path) -> None:
    painter, _ = painter_with()
    with painter.stop.deferred():
        painter.stop.handle(signal.SIGINT, None)
    painter.evaluate(1)
    assert not list(tmp_path.rglob("*.png"))


def test_the_exported_file_tells_where_it_comes_from_and_holds_alpha(model: Model, tmp_path: Path) -> None:
    _, parts, _, trained = model
    family, text = families()["sd3"], TextOptions(tokenizer_max_length=99)
    metadata = {**provenance(parts, family=family.facts, trained=trained, text=text), "step": "31"}
    more = ExportOptions()
    (path,) = export_result(
        tmp_path, trained=trained, metadata=metadata, more=more, parts=parts, family=family, reporter=Reporter()
    )
    assert path == tmp_path / trained.output_name
    assert [file.name for file in tmp_path.iterdir()] == [trained.output_name]
    with safe_open(path, framework="pt") as file:
        said = file.metadata()
        assert sorted(file.keys()) == sorted(trained.weights)
    assert (said["tokenizer_max_length"], said["step"], said["lora_rank"]) == ("99", "31", "2")
    assert said["base_model"] == parts.transformer.parent.name
    assert "/" not in said["base_model"]
    assert said["program"].startswith("SimpleTuner ")


def held_bytes() -> int:
    """Of all tensors that are alive in this process, each storage once."""
    gc.collect()
    held: dict[int, int] = {}
    for each in gc.get_objects():
        if issubclass(type(each), torch.Tensor):
            with suppress(RuntimeError):  # tensors that other tests left behind may have no real storage
                storage = each.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes()
    return sum(held.values())


def test_images_hold_no_more_than_their_latents_and_the_vae(painter_with: PainterWith) -> None:
    painter, _ = painter_with(replace(OPTIONS, num_validation_images=3))
    part = painter.latent_part
    found: list[int] = []

    def load() -> Any:
        found.append(held_bytes())
        return part.load()

    before = held_bytes()
    replace(painter, latent_part=replace(part, load=load)).evaluate(1)
    latents = 4 * 16 * 3 * (8 * 8 + 8 * 16)
    # When the VAE comes all but the latents is gone: no activations, no copy of weights (a hundred times as much).
    assert latents <= found[0] - before < 2 * latents
    assert held_bytes() - before < latents
