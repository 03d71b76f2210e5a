"""`--dry_run` says what a run would do, in numbers that the run then keeps, and touches nothing."""

import os
from pathlib import Path

import pytest
import torch

from tests.runs.harness import SmallRun, draw, encoded, image_dataset

LONG = " ".join(["word"] * 100)


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    """Three square images, one wide one whose caption is too long, and one that is no image."""
    run = SmallRun(tmp_path, tiny_pipeline, datasets=[image_dataset(caption_strategy="textfile")])
    folder = run.output / "datasets" / "colors"
    for name in ("one", "two", "three"):
        draw(folder / f"{name}.png", color=(200, 30, 30), size=(80, 80))
        (folder / f"{name}.txt").write_text(f"a red square called {name}")
    draw(folder / "wide.png", color=(20, 180, 40), size=(160, 80))
    (folder / "wide.txt").write_text(LONG)
    draw(folder / "speechless.png", color=(20, 180, 40), size=(80, 80))
    return run


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_plan_has_each_number_of_the_run(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(run.output)
    assert run.start(dry_run=True, validation_prompt="a green square", report_to="tensorboard") == 0
    said = capsys.readouterr().out
    assert "colors: 4 images, 1 left out\n    speechless.png has no caption file" in said
    assert "colors 64x64: 3 images, 2 batches; the last is filled with 1 of the next epoch's" in said
    assert "colors 128x64: 1 image, 1 batch; fewer than the 2 of a batch, which shows each 2 times" in said
    clip = "CLIP reads 77 tokens: 1 of 4 captions is longer and truncated, the longest has 102"
    assert f"{clip}\n    102: 'word word" in said
    assert "T5 reads 77 tokens: 1 of 4 captions is longer and truncated" in said
    assert "6 in all, of 4 images each; 1 an epoch\n  so 6 epochs; a checkpoint every 2 steps" in said
    assert "t5: 6 captions to encode" in said
    assert "colors: 4 images to encode" in said
    for part in ("caching", "training", "validation"):
        assert f"  {part} " in said.split("Memory, estimated")[1]
    assert "the run should fit" in said
    made = files_of(run.output) - before - {"multidatabackend.json"}
    remembered = ("cache/vae/metadata/colors/", "cache/text/tokens-")
    assert not {name for name in made if not name.startswith(remembered) and not name.endswith(".log")} - {
        "datasets.html"
    }


def test_what_is_cached_and_what_is_not_is_told_apart(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out)["colors"] == 4
    draw(run.output / "datasets" / "colors" / "four.png", color=(30, 40, 220), size=(80, 80))
    (run.output / "datasets" / "colors" / "four.txt").write_text("a blue square")
    assert run.start(dry_run=True) == 0
    said = capsys.readouterr().out
    assert "colors: 1 image to encode, 0 MB, 4 are cached" in said
    assert "t5: 1 caption to encode, 0 MB, 5 are cached" in said
    assert run.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out) == {"clip_l": 1, "clip_g": 1, "t5": 1, "colors": 1}
    assert run.start(dry_run=True) == 0
    assert "colors: all 5 images cached" in capsys.readouterr().out


def test_all_left_out_are_in_a_file_where_they_are_many(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        draw(run.output / "datasets" / "colors" / f"mute {number}.png", color=(0, 0, 0), size=(80, 80))
    assert run.start(dry_run=True) == 0
    path = run.output / "left_out.txt"
    assert f"all images left out: {path}" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 6


@pytest.mark.skipif(torch.accelerator.is_available(), reason="PyTorch can use this machine's card")
def test_a_card_that_pytorch_cannot_use_is_told_before_the_plan(
    run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = tmp_path / "bin/nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3090, 535.54.03'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    assert run.start(dry_run=True) == 1
    output, error = capsys.readouterr()
    assert "the driver lists NVIDIA GeForce RTX 3090 (driver 535.54.03)" in error
    assert "should fit" not in output
    assert run.start(dry_run=True, force_cpu=True) == 0
    assert "this machine has" in capsys.readouterr().out
