"""A run from single files alone, without a network, is the run of the folder, also where it has no T5."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from helpers import convert
from tests.runs.harness import SmallRun, copied, draw_set, encoded, same, stop_after
from tests.single_files import all_component_files, no_network

STEPS = {"max_train_steps": 2, "gradient_accumulation_steps": 1, "checkpointing_steps": 1}
DRAWN = {"validation_prompt": "a red square"}
WITHOUT_T5 = {"pretrained_t5_model_name_or_path": "none"}


def run_of(folder: Path, base: Path, **settings: Any) -> SmallRun:
    run = SmallRun(folder, base, settings=STEPS | settings)
    draw_set(run.output / "datasets" / "colors")
    return run


def pixels(run: SmallRun) -> dict[str, bytes]:
    """Of validation images, by name."""
    found = (run.output / "validation_images").rglob("*.png")
    return {str(file.relative_to(run.output)): Image.open(file).tobytes() for file in found}


@pytest.fixture(scope="module")
def files(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file with the transformer and the VAE, and the settings that name a file for each other component."""
    folder = tmp_path_factory.mktemp("files")
    base = folder / "sd3_medium.safetensors"
    assert convert.main([str(tiny_pipeline), str(base), "--to", "single-file"]) == 0
    return base, all_component_files(tiny_pipeline, folder)


@pytest.fixture(scope="module")
def straight(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """The folder's run."""
    run = run_of(tmp_path_factory.mktemp("folder"), tiny_pipeline, **DRAWN)
    assert run.start() == 0
    return run


def test_files_alone_train_to_what_the_folder_trains_to(
    files: tuple[Path, dict[str, str]],
    straight: SmallRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, named = files
    no_network(monkeypatch)
    run = run_of(tmp_path / "files", base, **named, **DRAWN)
    capsys.readouterr()
    assert run.start() == 0
    said = capsys.readouterr().out
    assert "text_encoder from clip_l.safetensors" in said
    assert "tokenizers and scheduler from this program" in said
    assert encoded(said)
    assert same(run.weights(), straight.weights())
    assert pixels(run) and pixels(run) == pixels(straight)


def test_the_folder_s_caches_serve_the_files(
    files: tuple[Path, dict[str, str]], straight: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, named = files
    again = copied(straight, tmp_path / "files", pretrained_model_name_or_path=base, **named)
    for folder in again.output.glob("checkpoint-*"):
        shutil.rmtree(folder)
    assert again.start() == 0
    assert not encoded(capsys.readouterr().out)
    assert same(again.weights(), straight.weights())


def test_a_run_without_t5_says_so_caches_no_zeros_and_resumes(
    files: tuple[Path, dict[str, str]],
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, named = files
    no_network(monkeypatch)
    straight = run_of(tmp_path / "folder", tiny_pipeline, **DRAWN, **WITHOUT_T5)
    assert straight.start() == 0
    said = capsys.readouterr().out
    assert "trains without text_encoder_3 (T5): zeros replace its output" in said
    assert set(encoded(said)) == {"colors", "clip_l", "clip_g"}
    run = run_of(tmp_path / "files", base, **DRAWN, **(named | WITHOUT_T5))
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert run.start() != 0
    assert run.start() == 0
    assert same(run.weights(), straight.weights())
    assert pixels(run) and pixels(run) == pixels(straight)
    with safe_open(run.output / "pytorch_lora_weights.safetensors", framework="pt") as lora:
        assert lora.metadata()["text_encoder_3"] == "none"
        assert json.loads(lora.metadata()["settings"])["PRETRAINED_T5_MODEL_NAME_OR_PATH"] == "none"
    card = (run.output / "README.md").read_text()
    assert "It was trained without T5" in card
    assert "text_encoder_3=None, tokenizer_3=None" in card
    assert str(tmp_path) not in card


def test_t5_put_in_later_is_encoded_alone(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path, tiny_pipeline)
    assert run.start(**WITHOUT_T5) == 0
    capsys.readouterr()
    assert run.start(resume_from_checkpoint="none", output_dir=run.output, max_train_steps=1) == 0
    assert set(encoded(capsys.readouterr().out)) == {"t5"}


def test_clips_that_learn_need_no_t5(tiny_pipeline: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, tiny_pipeline, train_text_encoder="true", **DRAWN, **WITHOUT_T5)
    assert run.start() == 0
    assert any(name.startswith("text_encoder_2.") for name in run.weights())
