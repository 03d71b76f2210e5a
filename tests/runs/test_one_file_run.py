"""A base model that is one file in the original layout trains to what its folder trains to, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.models.sd3.original_layout import PREFIX, to_original
from helpers.models.sd3.small import SHAPES, make_small_pipeline
from helpers.models.tensor_files import planned
from tests.runs.harness import SmallRun, copied, draw_set

KINDS: dict[str, dict[str, Any]] = {
    "SD3": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """Pictures and full caches, which all kinds share."""
    settings = {"max_train_steps": 2, "gradient_accumulation_steps": 1}
    run = SmallRun(tmp_path_factory.mktemp("encoded"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets" / "colours")
    assert run.start(cache_only=True) == 0
    return run


def made(folder: Path, **kind: Any) -> tuple[Path, Path]:
    """A pipeline, and its transformer as one file."""
    pipeline = make_small_pipeline(folder / "pipeline", **kind)
    tensors = load_file(pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    original = {PREFIX + name: each.make().contiguous() for name, each in to_original(planned(tensors)).items()}
    save_file(original, folder / "any name.safetensors")
    return pipeline, folder / "any name.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_trains_to_the_same_lora(
    encoded: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # Without normalised queries, nothing in a file tells how wide a head is: it is 64, as in every published SD3.
    monkeypatch.setitem(
        SHAPES, "tiny", replace(SHAPES["tiny"], heads=1, head_width=64) if kind == "SD3" else SHAPES["tiny"]
    )
    pipeline, file = made(tmp_path, **KINDS[kind])
    runs = [copied(encoded, tmp_path / name) for name in ("folder", "file")]
    assert runs[0].start(pretrained_model_name_or_path=pipeline) == 0
    assert runs[1].start(pretrained_model_name_or_path=file, pretrained_parts_model_name_or_path=pipeline) == 0
    first, second = (run.weights() for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_full_training_of_one_file_ends_as_a_folder_that_diffusers_opens(encoded: SmallRun, tmp_path: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    pipeline, file = made(tmp_path, **KINDS["SD3.5 medium"])
    run = copied(encoded, tmp_path / "run", model_type="full")
    runs_from = {"pretrained_model_name_or_path": file, "pretrained_parts_model_name_or_path": pipeline}
    assert run.start(**runs_from) == 0
    opened: Any = StableDiffusion3Pipeline.from_pretrained(run.output / "pipeline")
    saved = load_file(run.output / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    held = opened.transformer.state_dict()
    assert held.keys() == saved.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())
    assert opened.transformer.config.dual_attention_layers == [0, 1]


def test_a_file_alone_is_refused_before_anything_is_loaded(
    encoded: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"lora_A": torch.ones(1)}, tmp_path / "sd3_medium.safetensors")
    run = copied(encoded, tmp_path / "run", pretrained_model_name_or_path=tmp_path / "sd3_medium.safetensors")
    assert run.start() != 0
    assert "--pretrained_parts_model_name_or_path" in capsys.readouterr().err
    assert run.start(pretrained_parts_model_name_or_path=encoded.pipeline) != 0
    assert "holds no SD3 in the original layout" in capsys.readouterr().err
