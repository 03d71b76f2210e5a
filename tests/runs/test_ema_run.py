"""An averaged run goes on exactly, draws from its average, hands the average on, and learns as one without."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from helpers.training.disk_space import checkpoint_bytes
from tests.runs.harness import SmallRun, copied, draw_set, stop_after

STEPS = 4
EMA = {"use_ema": True, "ema_decay": 0.9, "ema_update_interval": 2}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full": {"model_type": "full", "learning_rate": 0.003, "optimizer": "adamw_bf16"},
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    settings = {"max_train_steps": STEPS, "checkpointing_steps": STEPS, "validation_prompt": "red square"}
    run = SmallRun(tmp_path_factory.mktemp("ema"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True) == 0
    return run


def result(run: SmallRun) -> dict[str, torch.Tensor]:
    """What the run hands on."""
    (file,) = (
        *run.output.glob("pytorch_lora_weights.safetensors"),
        *run.output.glob("pipeline/transformer/*.safetensors"),
    )
    return load_file(file)


def last_image(run: SmallRun) -> NDArray[np.uint8]:
    (file,) = (run.output / "validation_images" / f"step_{STEPS}").iterdir()
    return np.asarray(Image.open(file))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_an_averaged_run_goes_on_exactly_and_hands_its_average_on(
    kind: str, cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, straight, stopped = (copied(cached, tmp_path / name, **KINDS[kind]) for name in ("a", "b", "c"))
    assert plain.start() == 0
    assert straight.start(**EMA) == 0
    saved = straight.remembered(STEPS)
    weights = [saved[name] for name in saved if not name.startswith(("ema.", "optimizer."))]
    estimated = checkpoint_bytes(weights, optimizer=KINDS[kind].get("optimizer", "adamw"), keeps_average=True)
    assert sum(tensor.nbytes for tensor in saved.values()) == pytest.approx(estimated, rel=0.05)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        assert stopped.start(**EMA) == 143
    assert stopped.start(**EMA) == 0
    assert equal(stopped.remembered(STEPS), straight.remembered(STEPS))
    assert equal(result(stopped), result(straight))

    remembered = straight.remembered(STEPS)
    without = {name: tensor for name, tensor in remembered.items() if not name.startswith("ema.safetensors")}
    assert equal(without, plain.remembered(STEPS)), "averaging and drawing from the average disturb nothing"
    averages = {name.partition(" ")[2]: tensor for name, tensor in remembered.items() if name not in without}
    handed_on = result(straight)
    assert all(torch.equal(handed_on[name], average.to(handed_on[name])) for name, average in averages.items())
    assert not equal(handed_on, result(plain))


def test_images_are_drawn_from_the_average_or_from_the_weights_as_they_are(cached: SmallRun, tmp_path: Path) -> None:
    plain, averaged, raw = (copied(cached, tmp_path / name, learning_rate=0.05) for name in ("a", "b", "c"))
    assert plain.start() == averaged.start(**EMA) == raw.start(**EMA, ema_validation="none") == 0
    assert np.array_equal(last_image(raw), last_image(plain))
    assert not np.array_equal(last_image(averaged), last_image(plain))


def test_an_average_begun_later_begins_at_the_weights(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(cached, tmp_path)
    assert run.start() == 0
    weights = load_file(run.output / f"checkpoint-{STEPS}" / "pytorch_lora_weights.safetensors")
    assert run.start(use_ema=True) == 0
    assert "use_ema: False before, True now" in capsys.readouterr().out
    assert equal(result(run), weights)
