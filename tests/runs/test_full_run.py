"""Training the model itself: it goes on exactly, moves what it was told to, and ends as a diffusers pipeline."""

import errno
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from helpers.models.sd3.tiny import make_tiny_pipeline
from tests.runs.harness import SmallRun, copied, draw_set, stop_after

PROMPT, NEGATIVE = "red square", "blue square"
STEPS = 4
SETTINGS = {
    "model_type": "full",
    "max_train_steps": STEPS,
    "checkpointing_steps": STEPS,
    "learning_rate": 0.003,
    "lr_scheduler": "cosine",
    "caption_dropout_probability": 0.3,
}


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """Images and full caches of an SD3 medium, to be copied."""
    run = SmallRun(tmp_path_factory.mktemp("medium"), tiny_pipeline, settings=SETTINGS)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True, validation_prompt=PROMPT, validation_negative_prompt=NEGATIVE) == 0
    return run


@pytest.fixture(scope="module")
def medium35(tmp_path_factory: pytest.TempPathFactory, medium: SmallRun) -> SmallRun:
    """The same of an SD3.5 medium, whose encoders are the same."""
    folder = tmp_path_factory.mktemp("medium35")
    pipeline = make_tiny_pipeline(folder / "pipeline", dual_attention=True, qk_norm="rms_norm")
    run = copied(medium, folder)
    run.pipeline = pipeline
    return run


def base_of(run: SmallRun) -> dict[str, torch.Tensor]:
    return load_file(run.pipeline / "transformer" / "diffusion_pytorch_model.safetensors")


def trained(run: SmallRun) -> dict[str, torch.Tensor]:
    return load_file(run.output / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")


def moved(run: SmallRun) -> set[str]:
    """The weights that are not the base's."""
    base = base_of(run)
    return {name for name, weight in trained(run).items() if not torch.equal(weight, base[name].to(weight.dtype))}


def same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_disk_too_small_for_checkpoints_is_told_of_before_a_step(
    medium: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(medium, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    assert run.start() == 1
    assert "The checkpoints need" in capsys.readouterr().err
    assert not [*run.output.glob("checkpoint-*")]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("medium", {"mixed_precision": "bf16"}, id="SD3 in fp32, computed in bf16"),
        pytest.param("medium35", {"optimizer": "adamw_bf16"}, id="SD3.5 in pure bf16"),
        pytest.param("medium35", {"layer_freeze_strategy": "bitfit"}, id="SD3.5 biases"),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not(
    family: str, settings: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any
) -> None:
    run = request.getfixturevalue(family)
    straight, stopped = (copied(run, tmp_path / name, **settings) for name in ("straight", "stopped"))
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert stopped.start() == 143
    assert not (stopped.output / "pipeline").exists()
    assert stopped.start() == 0
    assert same_tensors(trained(stopped), trained(straight))
    assert same_tensors(stopped.remembered(STEPS), straight.remembered(STEPS))
    dtype = torch.bfloat16 if settings.get("optimizer") == "adamw_bf16" else torch.float32
    assert all(weight.dtype is dtype for weight in trained(straight).values())
    assert moved(straight)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_bf16"])
def test_moving_weights_during_the_backward_pass_changes_nothing(
    optimizer: str, medium: SmallRun, tmp_path: Path
) -> None:
    settings = {"optimizer": optimizer, "max_grad_norm": 0, "gradient_accumulation_steps": 1}
    after = copied(medium, tmp_path / "after", **settings)
    during = copied(medium, tmp_path / "during", fused_backward=True, **settings)
    assert after.start() == during.start() == 0
    assert same_tensors(trained(during), trained(after))
    assert same_tensors(during.remembered(STEPS), after.remembered(STEPS))


@pytest.mark.parametrize(
    ("settings", "moves"),
    [
        ({"layer_freeze_strategy": "bitfit"}, r".*\.bias"),
        ({"train_modules": "transformer_blocks.[01]"}, r"transformer_blocks\.[01]\..*"),
        ({"freeze_modules": "transformer_blocks, norm_out"}, r"(?!transformer_blocks|norm_out).*"),
        ({"train_modules": "attn", "freeze_modules": "transformer_blocks.0"}, r"transformer_blocks\.[12]\.attn\..*"),
    ],
)
def test_only_what_was_chosen_moves_and_is_saved(
    settings: dict[str, str], moves: str, medium: SmallRun, tmp_path: Path
) -> None:
    run = copied(medium, tmp_path, max_train_steps=2, **settings)
    assert run.start() == 0
    wanted = {name for name in base_of(run) if re.fullmatch(moves, name) and name != "pos_embed.pos_embed"}
    # The last block's queries of the text stream reach nothing; decay alone would move those that are not zero.
    without_effect = {"transformer_blocks.2.attn.add_q_proj.bias"}
    assert moved(run) | without_effect == wanted | without_effect
    saved = load_file(run.output / "checkpoint-2" / "transformer.safetensors")
    assert saved.keys() == wanted
    remembered = load_file(run.output / "checkpoint-2" / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in remembered} == wanted


def drawn_at(run: SmallRun, step: int) -> NDArray[np.int64]:
    """The pixels [H, W, 3] of the image drawn after `step` steps."""
    (file,) = (run.output / "validation_images" / f"step_{step}").iterdir()
    return np.asarray(Image.open(file)).astype(np.int64)


@pytest.fixture
def math_attention() -> Iterator[None]:
    """The fused kernel, in bf16, puts the two up to 5 of 255 apart with AVX-512, and less than 1 with AVX2."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


@pytest.mark.usefixtures("math_attention")
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_bf16"])
def test_plain_diffusers_draws_from_the_folder_what_the_trainer_drew(
    optimizer: str, medium35: SmallRun, tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Pipeline

    prompts = {"validation_prompt": PROMPT, "validation_negative_prompt": NEGATIVE}
    run = copied(medium35, tmp_path, optimizer=optimizer, attention="math", **prompts)
    assert run.start() == 0
    shutil.copytree(run.output / "pipeline", tmp_path / "elsewhere")
    dtype = torch.float32 if optimizer == "adamw" else torch.bfloat16
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "elsewhere", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    texts = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, negative_prompt=NEGATIVE, max_sequence_length=77)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    pipeline.transformer.to(dtype)
    latents = pipeline(
        **{name: text.bfloat16().to(dtype) for name, text in zip(names, texts, strict=True)},
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(42),
        output_type="latent",
    ).images
    latents = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
    pixels = pipeline.vae.decode(latents.float())[0].detach()
    theirs = pipeline.image_processor.postprocess(pixels, output_type="np")[0] * 255
    before, ours = (drawn_at(run, step) for step in (0, STEPS))
    assert np.abs(ours - theirs).max() <= 1
    assert np.abs(ours - before).max() > 10


def test_a_disk_without_room_costs_nothing_that_was_learnt(
    medium: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = copied(medium, tmp_path, max_train_steps=1)
    with monkeypatch.context() as patched:
        patched.setattr("helpers.models.sd3.weights.pipeline.shutil.copytree", full)
        assert run.start() == 1
    assert "Nothing is lost: the last checkpoint is complete" in capsys.readouterr().err
    assert run.saved_steps() == [1]
    assert not list(run.output.glob("*pipeline*"))
    leftover = run.output / ".pipeline.partial-killed"
    leftover.mkdir()
    assert run.start() == 0
    assert "training: step" not in capsys.readouterr().out
    assert moved(run)
    assert not leftover.exists()
