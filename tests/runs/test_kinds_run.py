"""Kinds of datasets through real runs: regularization, and what is kept back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.training import loop
from tests.runs.harness import SmallRun, draw, draw_set, encoded, image_dataset


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    draw_set(tmp_path / "output" / "datasets" / "colors")
    return SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 2, "lora_dropout": 0.2})


def test_regularization_alone_asks_an_untouched_adapter_for_nothing(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []

    def taken(*arguments: Any, **named: Any) -> Any:
        step = take_step(*arguments, **named)
        losses.append(step.loss)
        return step

    take_step = loop.take_step
    monkeypatch.setattr(loop, "take_step", taken)
    run.datasets = [image_dataset(is_regularisation_data=True)]
    assert run.start() == 0
    assert losses == [0.0, 0.0]
    assert all(not tensor.any() for name, tensor in run.weights().items() if "lora_B" in name)


def test_regularization_beside_others_learns_the_others_only(run: SmallRun) -> None:
    for name in ("purple", "black", "white"):
        draw(run.output / "datasets/prior" / f"{name} thing.png", color=(90, 90, 90), size=(80, 80))
    prior = image_dataset(id="prior", instance_data_dir="datasets/prior", cache_dir_vae="cache/prior")
    weights: dict[bool, dict[str, torch.Tensor]] = {}
    for regularized in (False, True):
        run.datasets = [image_dataset(), prior | {"is_regularisation_data": regularized}]
        assert run.start(resume_from_checkpoint="none", max_train_steps=3) == 0
        weights[regularized] = run.weights()
    moved = {
        regularized: sum(float(tensor.norm()) for name, tensor in found.items() if "lora_B" in name)
        for regularized, found in weights.items()
    }
    assert 0 < moved[True] != moved[False]


def test_what_is_kept_back_is_prepared_and_never_trained_on(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    alone = SmallRun(run.folder / "alone", run.pipeline, settings=run.settings)
    draw_set(alone.output / "datasets" / "colors")
    assert alone.start() == 0
    draw(run.output / "datasets/held" / "a held back thing.png", color=(9, 200, 9), size=(80, 80))
    held = image_dataset(id="held", instance_data_dir="datasets/held", dataset_type="eval", cache_dir_vae="cache/held")
    run.datasets = [image_dataset(), held]
    capsys.readouterr()
    assert run.start() == 0
    said = capsys.readouterr().out
    assert encoded(said)["held"] == 1 and encoded(said)["clip_l"] == 9
    assert "held 64x64" not in said
    assert all(torch.equal(run.weights()[name], tensor) for name, tensor in alone.weights().items())
