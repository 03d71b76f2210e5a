"""A schedule-free run goes on exactly, though it hands on, draws and saves an average of what it trains with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.runs.harness import SmallRun, draw_set, same, stop_after

STEPS = 4


def image(run: SmallRun) -> bytes:
    (file,) = (run.output / "validation_images" / f"step_{STEPS}").iterdir()
    return np.asarray(Image.open(file)).tobytes()


def test_a_schedule_free_run_goes_on_exactly_and_hands_on_its_average(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "optimizer": "adamw_schedulefree",
        "optimizer_config": "beta1=0.8",
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS,
        "validation_prompt": "red square",
        "learning_rate": 0.05,
    }
    straight, stopped = (SmallRun(tmp_path / name, tiny_pipeline, settings=settings) for name in ("a", "b"))
    draw_set(straight.output / "datasets" / "colors")
    draw_set(stopped.output / "datasets" / "colors")
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        assert stopped.start() == 143
    assert stopped.start() == 0
    remembered = straight.remembered(STEPS)
    assert same(stopped.remembered(STEPS), remembered)
    assert same(stopped.weights(), straight.weights())
    assert image(stopped) == image(straight)

    saved = load_file(straight.output / f"checkpoint-{STEPS}" / "pytorch_lora_weights.safetensors")
    assert same(saved, straight.weights()), "a checkpoint's file of weights is as good as a finished run's"
    for name, averaged in straight.weights().items():
        if name.endswith("lora_B.weight"):
            trained = remembered[f"trained_with.safetensors {name}"]
            moves = remembered[f"optimizer.safetensors {name}/z"]
            # y = (1 - beta1) z + beta1 x
            torch.testing.assert_close(trained, 0.2 * moves + 0.8 * averaged, rtol=1e-4, atol=1e-6)
            assert not torch.equal(trained, averaged)

    drawn = image(straight)
    next((straight.output / "validation_images" / f"step_{STEPS}").iterdir()).unlink()
    assert straight.start(ema_validation="none") == 0
    assert image(straight) != drawn, "images are drawn from the average, unless otherwise asked"


def test_a_run_for_which_memory_does_not_suffice_says_what_takes_less(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 1, "validation_prompt": "red square"})
    draw_set(run.output / "datasets" / "colors")

    def take_too_much(*arguments: Any, **named: Any) -> None:
        torch.empty(2**50)

    places = {
        "helpers.training.run.check_cache_space": "while encoding images and captions",
        "helpers.training.step.velocity_target": "while training",
        "helpers.training.validation.images.release_device_memory": "while generating validation images",
    }
    for place, told in places.items():
        with monkeypatch.context() as patched:
            patched.setattr(place, take_too_much)
            assert run.start(gradient_checkpointing=False) == 1
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said
        assert ("USE_GRADIENT_CHECKPOINTING=true: about" in said) == (told == "while training")
