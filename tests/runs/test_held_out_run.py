"""The validation loss is of images that are never trained on, shows over-fitting, and changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.data.types import Catalog
from helpers.reporting.events import StepFinished
from helpers.training import loop
from helpers.training import run as chapters
from helpers.training.preparation.prepare import PreparedDataset
from helpers.training.validation import split as split_validation
from tests.runs.harness import COLORS, SmallRun, copied, draw, draw_set, image_dataset, same, stop_after

STEPS = 4
HELD = image_dataset(id="held", instance_data_dir="datasets/held", dataset_type="eval", cache_dir_vae="cache/held")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """A run with caches of images to train on, and of others."""
    run = SmallRun(
        tmp_path_factory.mktemp("held"),
        tiny_pipeline,
        settings={"max_train_steps": STEPS, "lora_dropout": 0.2, "caption_dropout_probability": 0.3},
        datasets=[image_dataset(), HELD],
    )
    draw_set(run.output / "datasets" / "colors")
    for seed, color in enumerate(("red", "green", "blue")):
        draw(run.output / "datasets" / "held" / f"{color} thing.png", color=COLORS[color], size=(80, 80), seed=seed)
    assert run.start(cache_only=True) == 0
    return run


def like(run: SmallRun, folder: Path, *, datasets: list[dict[str, Any]], **settings: Any) -> SmallRun:
    other = copied(run, folder, **settings)
    other.datasets = datasets
    return other


def measured(run: SmallRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.output / "logs" / "held_out.jsonl").read_text().splitlines()]


def test_the_loss_is_told_from_the_base_on_and_nothing_else_changes(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ema = {"use_ema": True, "ema_decay": 0.5}
    plain = like(cached, tmp_path / "plain", datasets=[image_dataset()], **ema)
    measuring = like(cached, tmp_path / "measuring", datasets=cached.datasets, **ema)
    assert plain.start() == 0
    assert measuring.start() == 0
    assert same(plain.weights(), measuring.weights())
    assert same(plain.remembered(STEPS), measuring.remembered(STEPS))
    assert not (plain.output / "logs" / "held_out.jsonl").exists()

    points = measured(measuring)
    assert [(point["step"], point["images"]) for point in points] == [(0, 3), (2, 3), (4, 3)]
    assert points[0]["mean"] == points[0]["base_mean"] == points[2]["base_mean"] == points[0]["ema_mean"]
    assert len({point[kind] for point in points for kind in ("mean", "ema_mean")}) == 5
    assert [each["sigma"] for each in points[0]["by_sigma"]] == [0.125, 0.375, 0.625, 0.875]
    assert f"validation loss at step 4: {points[2]['mean']:.4f} (average" in capsys.readouterr().out

    resumed = like(cached, tmp_path / "resumed", datasets=cached.datasets, **ema)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        assert resumed.start() == 143
    assert resumed.start() == 0
    assert measured(resumed) == points


def test_a_few_are_kept_back_of_each_data_set(cached: SmallRun, tmp_path: Path) -> None:
    run = like(cached, tmp_path / "few", datasets=[image_dataset()], num_eval_images=2, eval_steps_interval=3)
    assert run.start(max_train_steps=3, validation_steps=1) == 0
    assert [(point["step"], point["images"]) for point in measured(run)] == [(0, 2), (3, 2)]
    assert run.start(max_train_steps=3, num_eval_images=7) == 1


def test_what_is_kept_back_is_no_longer_trained_on_and_one_more_image_moves_one(
    cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[tuple[PreparedDataset, ...], tuple[PreparedDataset, ...]]] = []
    twice = [image_dataset(), image_dataset(id="larger", resolution=96, cache_dir_vae="cache/larger")]
    run = like(cached, tmp_path / "more", datasets=twice, num_eval_images=2)
    split = split_validation.split_validation
    monkeypatch.setattr(
        chapters, "split_validation", lambda *args, **more: found.append(split(*args, **more)) or found[-1]
    )
    assert run.start(cache_only=True) == 0
    draw(run.output / "datasets" / "colors" / "pink.png", color=(250, 130, 200), size=(80, 80))
    assert run.start(cache_only=True) == 0

    def paths(prepared: tuple[PreparedDataset, ...]) -> list[set[str]]:
        catalogs: list[Catalog] = [each.catalog for each in prepared]
        return [set(catalog.paths) for catalog in catalogs]

    for trained, held in found:
        assert paths(held)[0] == paths(held)[1]
        assert len(paths(held)[0]) == 2
        assert all(not path & paths(held)[0] for path in paths(trained))
    (before, _), (after, _) = (paths(held) for _, held in found)
    assert len(before - after) <= 1


def test_an_eval_data_set_that_is_not_there_is_named(cached: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cached.start(eval_dataset_id="heldd") == 1
    assert "did you mean held?" in capsys.readouterr().err


def test_learning_by_heart_is_seen_and_said(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dark image again and again: it is learned ever better, and a bright one ever worse."""
    run = SmallRun(tmp_path, tiny_pipeline, datasets=[image_dataset(), HELD])
    draw(run.output / "datasets" / "colors" / "black.png", color=COLORS["black"], size=(64, 64))
    draw(run.output / "datasets" / "held" / "white.png", color=COLORS["white"], size=(64, 64))
    losses: list[float] = []
    take_step = loop.take_step

    def taken(*arguments: Any, **named: Any) -> StepFinished:
        event = take_step(*arguments, **named)
        losses.append(event.loss)
        return event

    monkeypatch.setattr(loop, "take_step", taken)
    how = {"max_train_steps": 70, "checkpointing_steps": 70, "eval_steps_interval": 5, "gradient_accumulation_steps": 1}
    assert run.start(**how, learning_rate=0.02, lora_rank=16, flow_shift="model") == 0
    means = [point["mean"] for point in measured(run)]
    lowest = min(means)
    at = means.index(lowest) * 5
    assert 0 < at < 50
    assert means[-1] > lowest * 1.03
    assert sum(losses[-20:]) < sum(losses[at - 5 : at + 15]) * 0.97
    said = capsys.readouterr().out
    assert f"lowest at step {at} " in said
    assert said.count("the run overfits from there on") == 2  # when it is seen, and among the warnings at the end
