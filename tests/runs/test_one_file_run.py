"""A base model that is one file in the original layout trains to what its folder trains to, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers import convert
from helpers.models.sd3.tiny import make_tiny_pipeline
from tests.runs.harness import SmallRun, draw_set, encoded, same, stop_after

KINDS: dict[str, dict[str, Any]] = {
    "SD3": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}
ONLY_TOKENIZERS = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
STEPS = {"max_train_steps": 2, "gradient_accumulation_steps": 1, "checkpointing_steps": 1}
DRAWN = {"validation_prompt": "a red square", "base_model_precision": "int8-quanto"}


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A pipeline, all of it as one file, and a folder with what no file holds."""
    folder = tmp_path_factory.mktemp("model")
    pipeline, file = make_tiny_pipeline(folder / "pipeline", **KINDS[request.param]), folder / "any name.safetensors"
    assert convert.main([str(pipeline), str(file), "--to", "single-file", "--with-text-encoders"]) == 0
    rest = shutil.copytree(pipeline, folder / "rest", ignore=shutil.ignore_patterns(*ONLY_TOKENIZERS))
    return pipeline, file, Path(rest)


def run_of(folder: Path, base: Path, **settings: Any) -> SmallRun:
    run = SmallRun(folder, base, settings=STEPS | settings)
    draw_set(run.output / "datasets" / "colors")
    return run


def images(run: SmallRun) -> dict[str, bytes]:
    """Their pixels: what else is in the files tells of the base by its name."""
    found = (run.output / "validation_images").rglob("*.png")
    return {str(file.relative_to(run.output)): Image.open(file).tobytes() for file in found}


def test_a_run_of_one_file_resumed_is_the_straight_run_of_its_folder(
    model: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline, file, rest = model
    straight = run_of(tmp_path / "folder", pipeline, **DRAWN)
    assert straight.start() == 0
    run = run_of(tmp_path / "file", file, pretrained_parts_model_name_or_path=rest, **DRAWN)
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        assert run.start() != 0
    capsys.readouterr()
    assert run.start() == 0
    said = capsys.readouterr().out
    assert f"transformer, vae, text_encoder, text_encoder_2, text_encoder_3 from {file.name}; tokenizers and" in said
    assert not encoded(said)
    assert same(run.weights(), straight.weights())
    assert images(run) and images(run) == images(straight)
    with safe_open(run.output / "pytorch_lora_weights.safetensors", framework="pt") as lora:
        assert lora.metadata()["base_model"] == file.name
    assert str(tmp_path) not in (run.output / "README.md").read_text()


def test_full_training_of_one_file_ends_as_a_folder_that_diffusers_opens(
    model: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Pipeline

    pipeline, file, rest = model
    run = run_of(tmp_path, file, pretrained_parts_model_name_or_path=rest, model_type="full")
    assert run.start() == 0
    opened: Any = StableDiffusion3Pipeline.from_pretrained(run.output / "pipeline")
    base: Any = StableDiffusion3Pipeline.from_pretrained(pipeline)
    for name in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        held, before = getattr(opened, name).state_dict(), getattr(base, name).state_dict()
        assert held.keys() == before.keys()
        assert all(torch.equal(held[each], before[each]) for each in held)
    held = opened.transformer.state_dict()
    saved = load_file(run.output / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert held.keys() == saved.keys() == base.transformer.state_dict().keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())
    assert any(not torch.equal(held[name], tensor) for name, tensor in base.transformer.state_dict().items())


def test_a_file_alone_is_refused_before_anything_is_loaded(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"something": torch.ones(1)}, tmp_path / "sd3_medium.safetensors")
    run = run_of(tmp_path / "run", tmp_path / "sd3_medium.safetensors")
    assert run.start() != 0
    assert "is not an SD3 in the original layout" in capsys.readouterr().err
    assert run.start(pretrained_parts_model_name_or_path=tiny_pipeline) != 0
    assert "is not an SD3 in the original layout" in capsys.readouterr().err
    assert convert.main([str(tiny_pipeline), str(tmp_path / "sd3.safetensors"), "--to", "single-file"]) == 0
    assert run.start(pretrained_model_name_or_path=tmp_path / "sd3.safetensors") != 0
    assert "PRETRAINED_T5_MODEL_NAME_OR_PATH" in capsys.readouterr().err
