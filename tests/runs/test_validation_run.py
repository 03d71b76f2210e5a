"""Validation images take nothing from training, come out alike each time, and are what the exported LoRA draws."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from tests.runs.harness import SmallRun, draw_set, same

PROMPT, NEGATIVE = "red square", "blue square"
SEED, STEPS, GUIDANCE, T5_LENGTH = 7, 3, 4.0, 90
SIZES = ((64, 64), (96, 64))
VALIDATION = {
    "validation_prompt": PROMPT,
    "validation_negative_prompt": NEGATIVE,
    "validation_seed": SEED,
    "validation_num_inference_steps": STEPS,
    "validation_guidance": GUIDANCE,
    "validation_resolution": "64x64,96x64",
    "validation_steps": 2,
}
# An alpha of its own, and a learning rate that leaves no doubt whether an image was drawn with the LoRA.
SETTINGS = {
    "torch_num_threads": 1,
    "max_train_steps": 4,
    "learning_rate": 0.05,
    "lora_rank": 4,
    "lora_alpha": 7,
    "lora_dropout": 0.2,
    "tokenizer_max_length": T5_LENGTH,
}


def finished_run(folder: Path, pipeline: Path, **settings: object) -> SmallRun:
    run = SmallRun(folder, pipeline, settings=SETTINGS | settings)
    draw_set(run.output / "datasets" / "colors")
    assert run.start() == 0
    return run


@pytest.fixture(scope="module")
def drawing(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """A run that drew images before, amid and after training."""
    return finished_run(tmp_path_factory.mktemp("drawing"), tiny_pipeline, **VALIDATION)


def images(run: SmallRun) -> dict[str, NDArray[np.uint8]]:
    """The pixels [H, W, 3] of each image the run drew, by step and size."""
    found = sorted((run.output / "validation_images").glob("*/*.png"))
    return {f"{path.parent.name} {path.name.split('_')[1]}": np.asarray(Image.open(path)) for path in found}


def test_images_are_drawn_of_the_base_and_of_the_lora_in_every_size(drawing: SmallRun) -> None:
    drawn = images(drawing)
    assert {name: image.shape for name, image in drawn.items()} == {
        f"step_{step} {width}x{height}": (height, width, 3) for step in (0, 2, 4) for width, height in SIZES
    }
    assert not np.array_equal(drawn["step_0 64x64"], drawn["step_2 64x64"])
    assert not np.array_equal(drawn["step_2 64x64"], drawn["step_4 64x64"])


def test_a_run_without_images_ends_in_the_same_weights(drawing: SmallRun, tmp_path: Path, tiny_pipeline: Path) -> None:
    plain = finished_run(tmp_path, tiny_pipeline)
    assert images(plain) == {}
    assert same(plain.weights(), drawing.weights())
    assert same(plain.remembered(4), drawing.remembered(4))


def test_the_same_run_draws_the_same_images(drawing: SmallRun, tmp_path: Path, tiny_pipeline: Path) -> None:
    first, again = images(drawing), images(finished_run(tmp_path, tiny_pipeline, **VALIDATION))
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_images_that_are_gone_are_drawn_again_alike_by_a_finished_run(
    drawing: SmallRun, tmp_path: Path, tiny_pipeline: Path
) -> None:
    run = finished_run(tmp_path, tiny_pipeline, **VALIDATION)
    for path in (run.output / "validation_images" / "step_4").iterdir():
        path.unlink()
    assert run.start() == 0
    assert np.array_equal(images(run)["step_4 64x64"], images(drawing)["step_4 64x64"])


@pytest.mark.parametrize("with_lora", [False, True], ids=["base", "lora"])
def test_plain_diffusers_draws_what_the_trainer_drew(with_lora: bool, drawing: SmallRun) -> None:
    """With nothing of ours but the exported file, opened as anyone would, and texts in bf16, as they are cached."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(drawing.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    if with_lora:
        pipeline.load_lora_weights(drawing.output, weight_name="pytorch_lora_weights.safetensors")
    texts = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, negative_prompt=NEGATIVE, max_sequence_length=T5_LENGTH)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    for width, height in SIZES:
        ours = images(drawing)[f"step_{4 if with_lora else 0} {width}x{height}"]
        theirs = pipeline(
            **{name: text.bfloat16().float() for name, text in zip(names, texts, strict=True)},
            width=width,
            height=height,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(SEED),
            output_type="np",
        ).images[0]
        assert np.abs(ours - theirs * 255).max() <= 1


def test_a_vae_that_is_kept_is_loaded_once_and_draws_the_same(
    tmp_path: Path, tiny_pipeline: Path, drawing: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []
    load = AutoencoderKL.from_config.__func__
    monkeypatch.setattr(
        AutoencoderKL,
        "from_config",
        classmethod(lambda kind, *a, **more: loaded.append(kind) or load(kind, *a, **more)),
    )
    kept = finished_run(tmp_path / "kept", tiny_pipeline, **VALIDATION, keep_vae_loaded=True)
    assert len(loaded) == 1
    finished_run(tmp_path / "dropped", tiny_pipeline, **VALIDATION)
    assert len(loaded) > 2
    ours, theirs = images(kept), images(drawing)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
