"""All that is wrong with a base model's files, or does not fit it, is reported at the start, in the dry run too."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.harness import REPOSITORY, SmallRun, draw_set

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4508667320\n"
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
T5 = "text_encoder_3/model.safetensors"


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    """Seven images, and a copy of the tiny pipeline to break."""
    pipeline = tmp_path / "base model"
    shutil.copytree(tiny_pipeline, pipeline)
    (pipeline / ".git").mkdir()
    run = SmallRun(tmp_path, pipeline)
    draw_set(run.output / "datasets" / "colors")
    return run


def refused(run: SmallRun, capsys: pytest.CaptureFixture[str], **settings: Any) -> str:
    """What both a run and its dry run print who end before anything is scanned or encoded."""
    printed = set()
    for dry_run in (True, False):
        assert run.start(dry_run=dry_run, **settings) == 1
        output = capsys.readouterr()
        assert "should fit" not in output.out
        assert "Traceback" not in output.err
        printed.add(output.err)
    assert not (run.output / "cache").exists()
    (text,) = printed
    return text


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize("file", [TRANSFORMER, VAE, T5])
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda _: POINTER, "it is a git-lfs pointer of 79 bytes"),
        (cut, "it is cut short"),
        (lambda content: content + b"more", "it is damaged"),
        (lambda _: b"<!DOCTYPE html><html>401</html>", "it is a web page"),
        (lambda _: b"GGUF\x03\0\0\0" + bytes(64), "it is a GGUF file"),
        (lambda _: b"", "it is empty"),
    ],
)
def test_a_weight_file_that_is_not_whole_is_reported_before_anything_is_encoded(
    run: SmallRun, capsys: pytest.CaptureFixture[str], file: str, broken: Callable[[bytes], bytes], reason: str
) -> None:
    path = run.pipeline / file
    path.write_bytes(broken(path.read_bytes()))
    printed = refused(run, capsys)
    assert str(path) in printed
    assert reason in printed
    assert "one setting needs a change" in printed
    assert ("lfs pull" in printed) == ("git-lfs" in reason)


def test_everything_wrong_is_reported_at_once(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (VAE, "tokenizer_3/tokenizer.json"):
        (run.pipeline / file).write_bytes(POINTER)
    transformer = run.pipeline / TRANSFORMER
    transformer.write_bytes(b"")
    resumed = run.output / "checkpoint-3"
    resumed.mkdir()
    (resumed / "model.safetensors").write_bytes(POINTER)
    printed = refused(run, capsys)
    assert "4 settings need a change" in printed
    assert printed.count(f"git -C '{run.pipeline}' lfs pull") == 2
    for file in (transformer, run.pipeline / VAE, resumed / "model.safetensors"):
        assert str(file) in printed


def test_a_base_without_t5_names_the_setting_for_it(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run.pipeline / "text_encoder_3")
    printed = refused(run, capsys)
    assert "text_encoder_3" in printed
    assert "PRETRAINED_T5_MODEL_NAME_OR_PATH" in printed


def test_settings_beyond_the_model_are_reported_at_once(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run.pipeline / "transformer" / "config.json").read_text())
    longest = config["pos_embed_max_size"] * config["patch_size"] * 8
    library = run.folder / "prompts.json"
    library.write_text(json.dumps({"wide": {"prompt": "a wide one", "resolution": f"{longest + 16}x64"}}))
    run.settings |= {"user_prompt_library": library, "validation_prompt": "a red square", "validation_guidance": 5}
    wrong = {
        "validation_resolution": f"64x64,64x{longest + 16}",
        "validation_skip_layers": f"0,{config['num_layers']}",
        "lora_target": "attn.to_nothing",
    }
    printed = refused(run, capsys, **wrong)
    assert "4 settings need a change" in printed
    assert f"no positions for images of 64x{longest + 16} pixels" in printed
    assert f"no positions for images of {longest + 16}x64 pixels" in printed
    assert f"the model has no block {config['num_layers']}" in printed
    assert "attn.to_nothing" in printed
    library.write_text(json.dumps({"wide": {"prompt": "a wide one", "resolution": f"{longest}x64"}}))
    last = str(config["num_layers"] - 1)
    assert run.start(dry_run=True, validation_resolution=f"64x{longest}", validation_skip_layers=last) == 0
    assert "should fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"lora_ranks": "attn.to_nothing=3"}, "LORA_RANKS"),
        ({"model_type": "full", "train_modules": "no_such_block"}, "TRAIN_MODULES"),
        ({"lora_type": "lycoris", "lycoris_config": "lycoris.json"}, "LYCORIS_CONFIG"),
    ],
)
def test_layers_the_model_does_not_have_are_reported(
    run: SmallRun, capsys: pytest.CaptureFixture[str], settings: dict[str, str], name: str
) -> None:
    if "lycoris_config" in settings:
        path = run.folder / settings["lycoris_config"]
        preset = {"target_module": ["NoSuchClass"]}
        path.write_text(json.dumps({"algo": "lokr", "linear_dim": 4, "linear_alpha": 4, "apply_preset": preset}))
        settings = settings | {"lycoris_config": str(path)}
    assert f"{name} = " in refused(run, capsys, **settings)


def test_through_train_sh_with_accelerates_stale_file(run: SmallRun) -> None:
    (run.pipeline / TRANSFORMER).write_bytes(POINTER)
    cache = run.folder / "cache"
    stale = cache / "accelerate" / "default_config.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("distributed_type: MULTI_GPU\nmixed_precision: fp8\nnum_processes: 8\n")
    copy = run.folder / "a copy"
    (copy / "config").mkdir(parents=True)
    for name in ("helpers", "train.py", "train.sh"):
        (copy / name).symlink_to(REPOSITORY / name)
    (copy / "config" / "config.env").write_text(f'MODEL_NAME="{run.pipeline}"\nMAX_NUM_STEPS=6\n')
    process = subprocess.run(
        ["bash", copy / "train.sh", *run.arguments(dry_run=True)],
        cwd=copy,
        env={"PATH": "/usr/bin:/bin", "VENV_PATH": sys.prefix, "HF_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1
    assert f"{stale}, which `accelerate config` wrote, asks for num_processes 8, mixed_precision fp8" in process.stderr
    assert "it is a git-lfs pointer of 79 bytes" in process.stderr
    assert "Traceback" not in process.stderr
