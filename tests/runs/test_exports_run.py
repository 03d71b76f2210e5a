"""What a finished run hands on besides its own: in each form the same weights, and told with what stands."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import train
from helpers import recipe
from helpers.config.env.launch import translated
from helpers.config.recipe import config_env
from helpers.models.formats.lora import of_transformer
from helpers.models.sd3.weights.lora_forms import read_lora
from helpers.models.sd3.weights.original.single_file import open_single_file
from tests.runs.harness import REPOSITORY, SmallRun, copied, draw_set, same

SECRET = "recognizable-secret-0815"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    settings = {"max_train_steps": 2, "gradient_accumulation_steps": 1, "lora_alpha": 8}
    run = SmallRun(tmp_path_factory.mktemp("exports"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True) == 0
    return run


def single_file(path: Path) -> dict[str, torch.Tensor]:
    with open_single_file(path) as (tensors, _):
        return {name: each.make() for name, each in tensors.items()}


def assert_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-5, rtol=1e-5)


def test_a_lora_is_handed_on_in_every_form(cached: SmallRun, tmp_path: Path, capsys: Any) -> None:
    forms = {"export_comfyui": True, "export_merged": True, "export_single_file": True}
    run = copied(cached, tmp_path, train_text_encoder=True, use_dora=True, **forms)
    assert run.start() == 0
    said = capsys.readouterr().out
    names = ("pytorch_lora_weights.safetensors", "comfyui_lora.safetensors", "pipeline", "single_file.safetensors")
    assert all(str(run.output / name) in said and f"write {name}" in said for name in names)

    learned = read_lora(run.output / names[0])
    base = load_file(run.pipeline / TRANSFORMER)
    expected = base | {
        f"{name}.weight": pair.merged_into(base[f"{name}.weight"]) for name, pair in of_transformer(learned).items()
    }
    assert any((expected[name] - base[name]).abs().max() > 0.001 for name in base)
    assert any(name.endswith(".dora_scale") for name in run.weights())
    comfyui = load_file(run.output / names[1])
    assert {name.partition("_text_model")[0] for name in comfyui if "text_model" in name} == {"lora_te1", "lora_te2"}
    assert any(name.endswith(".dora_scale") for name in comfyui)
    assert_close(load_file(run.output / "pipeline" / TRANSFORMER), expected)
    assert_close(single_file(run.output / names[3]), expected)


def test_a_lycoris_is_handed_on_too(cached: SmallRun, tmp_path: Path) -> None:
    file = REPOSITORY / "config" / "lycoris_config.json.example"
    adapter = {"lora_type": "lycoris", "lycoris_config": file, "lora_alpha": None}
    run = copied(cached, tmp_path, export_comfyui=True, export_merged=True, **adapter)
    assert run.start() == 0
    base, after = (load_file(folder / TRANSFORMER) for folder in (run.pipeline, run.output / "pipeline"))
    assert any((after[name] - base[name]).abs().max() > 0.001 for name in base)
    assert load_file(run.output / "comfyui_lora.safetensors").keys() == run.weights().keys()


def test_full_differences_are_written_for_comfyui_or_it_is_reported(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lycoris.json"
    file.write_text(json.dumps({"algo": "full", "apply_preset": {"target_module": ["Attention"]}}))
    run = copied(cached, tmp_path, lora_type="lycoris", lycoris_config=file, lora_alpha=None)
    assert run.start() == 0
    assert f"ComfyUI does not read all of {run.output}/pytorch_lora_weights.safetensors" in capsys.readouterr().err
    (run.output / "pytorch_lora_weights.safetensors").unlink()
    assert run.start(export_comfyui=True, max_train_steps=3) == 0
    assert "ComfyUI does not read all" not in capsys.readouterr().err
    assert {name.rpartition(".")[2] for name in load_file(run.output / "comfyui_lora.safetensors")} == {
        "diff",
        "diff_b",
    }


def test_a_whole_model_is_handed_on_as_one_file(cached: SmallRun, tmp_path: Path) -> None:
    run = copied(cached, tmp_path, model_type="full", lora_alpha=None, max_train_steps=1, export_single_file=True)
    assert run.start() == 0
    trained = load_file(run.output / "pipeline" / TRANSFORMER)
    base = load_file(run.pipeline / TRANSFORMER)
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    found = single_file(run.output / "single_file.safetensors")
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[name], trained[name]) for name in trained)


def test_what_it_tells_of_itself_is_enough_to_repeat_the_run(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but where things are: the base, the dataset and the output folder are named again."""
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    settings = {"seed": 7, "lr_scheduler": "cosine", "caption_dropout_probability": 0.5, "use_ema": True}
    prompt = {"validation_negative_prompt": f"it's {SECRET}", "validation_prompt_library": False}
    shutil.copytree(cached.pipeline, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: openrail++\n---\n")
    run = copied(cached, tmp_path / "first", export_comfyui=True, **settings, **prompt)
    run.pipeline = tmp_path / "base"
    assert run.start() == 0
    for name in ("pytorch_lora_weights.safetensors", "comfyui_lora.safetensors"):
        content = (run.output / name).read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        said = json.loads(content[8:length])["__metadata__"]
        assert said["modelspec.hash_sha256"] == f"0x{hashlib.sha256(content[length:]).hexdigest()}"
        assert said["modelspec.architecture"] == "stable-diffusion-v3/lora"
        assert said["modelspec.resolution"] == "64x64"
        assert said["modelspec.license"] == "openrail++"
        assert said["ema_decay"]
        assert not [secret for secret in (SECRET, str(tmp_path), str(run.pipeline)) if secret.encode() in content]

    capsys.readouterr()
    assert recipe.main([str(run.output / "comfyui_lora.safetensors")]) == 0
    env_file = tmp_path / "config.env"
    env_file.write_text(capsys.readouterr().out)
    assert "# dataset colors: 7 images, " in env_file.read_text()
    again = copied(cached, tmp_path / "again")
    again.arguments()
    translation = translated(env_file, flags=[f"--pretrained_model_name_or_path={run.pipeline}"])
    assert not translation.remarks
    assert train.main([*translation.arguments, f"--output_dir={again.output}"]) == 0
    assert same(again.weights(), run.weights())


@pytest.mark.parametrize(
    ("recorded", "lines"),
    [
        ({}, ["export FLOW_SHIFT=model"]),
        ({"FLOW_SHIFT": "3.0"}, ["export FLOW_SHIFT=3.0"]),
        ({"FLOW_SHIFT": "auto"}, ["export FLOW_SHIFT=auto"]),
        ({"FLOW_SHIFT": "1.0"}, []),
    ],
)
def test_the_recipe_of_an_older_run_names_the_shift_that_it_had(recorded: dict[str, str], lines: list[str]) -> None:
    told = config_env({"settings": json.dumps(recorded)}).splitlines()
    assert [line for line in told if line.startswith("export")] == lines


def test_a_file_of_somebody_else_s_tells_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "theirs.safetensors")
    assert recipe.main([str(tmp_path / "theirs.safetensors")]) == 1
    assert "has no settings" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["export_comfyui", "export_merged"])
def test_what_there_is_no_such_file_of_is_told_at_once(
    name: str, cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SmallRun(tmp_path, cached.pipeline, settings={"model_type": "full", name: True}).start() == 1
    assert "it exports a LoRA, and MODEL_TYPE=full" in capsys.readouterr().err
