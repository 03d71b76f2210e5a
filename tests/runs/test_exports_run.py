"""What a finished run hands on besides its own: in each form the same weights, and told with what stands."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.models.lora_files import Pair, read_diffusers_lora
from helpers.models.sd3.comfyui_lora import read_comfyui_lora
from helpers.models.sd3.single_file import open_single_file
from tests.runs.harness import SmallRun, copied, draw_set

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    settings = {"max_train_steps": 2, "gradient_accumulation_steps": 1, "lora_alpha": 8}
    run = SmallRun(tmp_path_factory.mktemp("exports"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets" / "colours")
    assert run.start(cache_only=True) == 0
    return run


def deltas(pairs: dict[str, Pair]) -> dict[str, torch.Tensor]:
    return {name: pair.delta() for name, pair in pairs.items()}


def single_file(path: Path) -> dict[str, torch.Tensor]:
    with open_single_file(path) as (tensors, _):
        return {name: each.make() for name, each in tensors.items()}


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-5, rtol=1e-5)


def test_a_lora_is_handed_on_in_every_form(cached: SmallRun, tmp_path: Path, capsys: Any) -> None:
    run = copied(cached, tmp_path, export_comfyui=True, export_merged=True, export_single_file=True)
    assert run.start() == 0
    said = capsys.readouterr().out
    names = ("pytorch_lora_weights.safetensors", "comfyui_lora.safetensors", "pipeline", "single_file.safetensors")
    assert all(str(run.output / name) in said for name in names)

    learnt = deltas(read_diffusers_lora(run.output / names[0]))
    assert any(delta.abs().max() > 0.001 for delta in learnt.values())
    assert_close(deltas(read_comfyui_lora(run.output / names[1])), learnt)
    base = load_file(run.pipeline / TRANSFORMER)
    expected = base | {f"{name}.weight": base[f"{name}.weight"] + delta for name, delta in learnt.items()}
    assert_close(load_file(run.output / "pipeline" / TRANSFORMER), expected)
    assert_close(single_file(run.output / names[3]), expected)


def test_a_whole_model_is_handed_on_as_one_file(cached: SmallRun, tmp_path: Path) -> None:
    run = copied(cached, tmp_path, model_type="full", lora_alpha=None, max_train_steps=1, export_single_file=True)
    assert run.start() == 0
    trained = load_file(run.output / "pipeline" / TRANSFORMER)
    base = load_file(run.pipeline / TRANSFORMER)
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    found = single_file(run.output / "single_file.safetensors")
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in trained)


@pytest.mark.parametrize("name", ["export_comfyui", "export_merged"])
def test_what_there_is_no_such_file_of_is_told_at_once(
    name: str, cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SmallRun(tmp_path, cached.pipeline, settings={"model_type": "full", name: True}).start() == 1
    assert "MODEL_TYPE=full trains none" in capsys.readouterr().err
