"""The embedded demo teaches what it says: in a few steps its images come nearer to the new style."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

import train
from helpers.config.env.launch import translated
from tests.runs.harness import REPOSITORY
from tools.demo_model import style_figures

STEPS = 60
FEW = ("chair", "hibiscus", "rooster", "watch", "plunger", "speedboat")


def test_the_demos_lora_lowers_the_held_out_loss_and_moves_images_to_the_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = tmp_path / "config" / "demo"
    shutil.copytree(REPOSITORY / "config" / "demo", demo)
    monkeypatch.chdir(tmp_path)
    few_steps = (f"--max_train_steps={STEPS}", f"--checkpointing_steps={STEPS}", f"--eval_steps_interval={STEPS}")
    quickly = (*few_steps, f"--validation_steps={10 * STEPS}", "--validation_num_inference_steps=1")
    words = translated(Path("config/demo/config.env"), flags=[*quickly, "--torch_num_threads=1"]).arguments
    assert train.main(words) == 0
    first, *_, last = map(json.loads, Path("output/demo/logs/held_out.jsonl").read_text().splitlines())
    assert last["mean"] < 0.8 * first["mean"]
    monkeypatch.setattr(style_figures, "SAMPLER_STEPS", 8)
    assert covered(demo, Path("output/demo")) > 0.3


def covered(demo: Path, run: Path) -> float:
    """The share of the way to the new style, of a few things that were trained on."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(demo / "pipeline", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    captions, images = style_figures.shown(demo / "style" / "images")
    rows = [captions.index(name) for name in FEW]
    before = style_figures.draw(pipeline, FEW)
    pipeline.load_lora_weights(run)
    return style_figures.share_covered(before, style_figures.draw(pipeline, FEW), images[rows])
