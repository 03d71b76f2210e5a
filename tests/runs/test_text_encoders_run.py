"""Text encoders that learn: the run goes on exactly, and plain diffusers draws what it drew."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from helpers.training import loop
from tests.runs.harness import SmallRun, copied, draw_set, encoded, same, stop_after

PROMPT, NEGATIVE = "red square", "blue square"
STEPS, T5_LENGTH, CLIP_LENGTH = 3, 80, 77
SETTINGS = {
    "train_text_encoder": True,
    "max_train_steps": STEPS,
    "checkpointing_steps": STEPS,
    "lora_alpha": 7,
    "lora_dropout": 0.2,
    "caption_dropout_probability": 0.3,
    "tokenizer_max_length": T5_LENGTH,
    "validation_negative_prompt": NEGATIVE,
    "validation_guidance": 4.0,
    "text_encoder_lr": 0.004,
    "num_eval_images": 1,
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """Images and full caches, to be copied."""
    run = SmallRun(tmp_path_factory.mktemp("text"), tiny_pipeline, settings=SETTINGS)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True, validation_prompt=PROMPT) == 0
    return run


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The mean loss of each step that is taken."""
    seen: list[float] = []

    def taken(*arguments: Any, **named: Any) -> Any:
        step = take_step(*arguments, **named)
        seen.append(step.loss)
        return step

    take_step = loop.take_step
    monkeypatch.setattr(loop, "take_step", taken)
    return seen


@pytest.mark.parametrize(
    "settings",
    [{}, {"mixed_precision": "bf16", "base_model_precision": "int8-quanto", "use_ema": True, "ema_decay": 0.9}],
    ids=["fp32", "int8 with an average"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not(
    settings: dict[str, Any], cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = (copied(cached, tmp_path / name, **settings) for name in ("straight", "stopped"))
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert stopped.start() == 143
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())
    assert same(stopped.remembered(STEPS), straight.remembered(STEPS))
    for prefix in ("transformer.", "text_encoder.", "text_encoder_2."):
        moved = [tensor for name, tensor in straight.weights().items() if name.startswith(prefix) and "lora_B" in name]
        assert moved and all(tensor.any() for tensor in moved), prefix


def test_neither_what_waits_elsewhere_nor_where_the_average_is_changes_what_they_learn(
    cached: SmallRun, tmp_path: Path
) -> None:
    average = {"use_ema": True, "ema_decay": 0.9, "ema_update_interval": 2}
    elsewhere = {"offload_blocks": 2, "offload_activations": True, "ema_device": "accelerator"}
    plain, saving = copied(cached, tmp_path / "a", **average), copied(cached, tmp_path / "b", **average, **elsewhere)
    assert plain.start() == saving.start() == 0
    assert same(saving.remembered(STEPS), plain.remembered(STEPS))
    assert same(saving.weights(), plain.weights())


def test_plain_diffusers_draws_what_the_trainer_drew(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing but the exported file, and T5's part of the text in bf16, as it is cached."""
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

    run = copied(cached, tmp_path, learning_rate=0.05, validation_prompt=PROMPT)
    assert run.start() == 0
    assert "clip_l" not in encoded(capsys.readouterr().out), "what learns is not cached"
    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(run.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"negative_prompt": NEGATIVE, "max_sequence_length": T5_LENGTH}
    before = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, **arguments)[0]
    pipeline.load_lora_weights(run.output, weight_name="pytorch_lora_weights.safetensors")
    embeds, negative, pooled, negative_pooled = pipeline.encode_prompt(PROMPT, PROMPT, PROMPT, **arguments)
    assert (embeds - before)[:, :CLIP_LENGTH].abs().max() > 0.1, "the text encoders say something else now"
    for each in (embeds, negative):
        each[:, CLIP_LENGTH:] = each[:, CLIP_LENGTH:].bfloat16().float()
    theirs = pipeline(
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(42),
        output_type="np",
    ).images[0]
    drawn = {}
    for step in (0, STEPS):
        (file,) = (run.output / "validation_images" / f"step_{step}").iterdir()
        drawn[step] = np.asarray(Image.open(file)).astype(np.int64)
    assert np.abs(drawn[STEPS] - theirs * 255).max() <= 1
    assert np.abs(drawn[STEPS] - drawn[0]).max() > 10
    measured = [json.loads(line) for line in (run.output / "logs/held_out.jsonl").read_text().splitlines()]
    assert measured[-1]["step"] == STEPS and measured[-1]["mean"] != measured[0]["base_mean"]


def test_an_untouched_adapter_says_what_the_cache_says(cached: SmallRun, tmp_path: Path, losses: list[float]) -> None:
    """To the rounding of the cache, which keeps CLIP's outputs in bf16; they move the loss by far less than 1 %."""
    settings = {"max_train_steps": 1, "gradient_accumulation_steps": 1, "lora_dropout": 0}
    learning, frozen, plain = (copied(cached, tmp_path / name, **settings) for name in ("a", "b", "c"))
    assert learning.start() == 0
    assert frozen.start(train_text_encoder=False) == 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] != losses[1]
    assert plain.start(gradient_checkpointing=False) == 0
    assert losses[2] == losses[0]
    for name, tensor in plain.weights().items():
        torch.testing.assert_close(tensor, learning.weights()[name])
    assert not (frozen.output / "checkpoint-1" / "text_encoders.safetensors").exists()
    moments = load_file(learning.output / "checkpoint-1" / "optimizer.safetensors")
    assert any(name.startswith("text_encoder_2.") for name in moments)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model_type": "full"}, "TRAIN_TEXT_ENCODER"),
        ({"lora_type": "lycoris"}, "TRAIN_TEXT_ENCODER"),
        ({"optimizer": "prodigy"}, "TEXT_ENCODER_LR"),
    ],
)
def test_what_does_not_go_with_them_is_refused_at_once(
    settings: dict[str, Any], named: str, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SmallRun(tmp_path, tiny_pipeline, settings=SETTINGS).start(**settings) == 1
    assert named in capsys.readouterr().err
