"""A run of everything that is drawn about data, stopped and gone on with, is the run that never was."""

from pathlib import Path

import pytest

from helpers.training.checkpoint.manifest import read_manifest
from tests.runs.harness import SmallRun, draw, draw_set, image_dataset, same
from tests.runs.test_resume import stop_after

STEPS = 7


def new_run(folder: Path, pipeline: Path) -> SmallRun:
    """Both sides of new crops in every epoch, tags in several orders, beside half as much regularization."""
    run = SmallRun(
        folder,
        pipeline,
        settings={"max_train_steps": STEPS, "checkpointing_steps": 100, "caption_dropout_probability": 0.2},
    )
    draw_set(run.output / "datasets" / "colors")
    for seed, name in enumerate(("gray", "brown", "pink")):
        draw(run.output / "datasets/prior" / f"{name}.png", color=(90, 30 * seed, 90), size=(80, 80), seed=seed)
    for image in (run.output / "datasets" / "colors").glob("*.png"):
        image.with_suffix(".txt").write_text(f"{image.stem}, plain, flat, small\nanother, of, these\n")
    run.datasets = [
        image_dataset(
            caption_strategy="textfile",
            caption_shuffle=True,
            caption_shuffle_count=3,
            crop=True,
            crop_style="random",
            flip=True,
            vae_cache_clear_each_epoch=True,
            resolution=48,
        ),
        image_dataset(
            id="prior",
            instance_data_dir="datasets/prior",
            is_regularisation_data=True,
            ignore_epochs=True,
            probability=0.5,
            resolution=48,
        ),
    ]
    return run


def test_a_run_stopped_in_a_later_epoch_goes_on_as_if_it_had_not(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, stopped = (new_run(tmp_path / name, tiny_pipeline) for name in ("straight", "stopped"))
    assert straight.start() == 0
    said = capsys.readouterr().out
    assert "an epoch is colors 66.7% (7 images), prior 33.3% (3.5 images)" in said
    assert said.count("encode images of colors") >= 6, "both sides, at the start and in two more epochs"
    with monkeypatch.context() as patched:
        stop_after(4, patched)
        assert stopped.start() == 143
    position = read_manifest(stopped.output / "checkpoint-4").position
    assert position.epoch >= 1 and position.batch > 0, "amid a later epoch"
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())
    assert same(stopped.remembered(STEPS), straight.remembered(STEPS))

    crops = {folder.name for folder in (straight.output / "cache/vae/epochs/colors").iterdir() if any(folder.iterdir())}
    last = read_manifest(straight.output / f"checkpoint-{STEPS}").position.epoch
    assert crops <= {f"seed-42-epoch-{epoch}" for epoch in (last - 1, last)} and crops
