"""INIT_LORA: a run begins at the file of any program, with that file's rank, alpha, target and kind."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.config.options.model import ModelOptions, PrecisionOptions
from helpers.models.formats.lora import Pair
from helpers.models.sd3.transformer import load_denoiser
from helpers.models.sd3.weights.components import locate
from helpers.models.sd3.weights.lora_forms import read_lora
from tests.runs.harness import SmallRun, copied, draw_set, same, stop_after
from tests.unit.models.lora_forms import FORMS

LAYERS = ("attn.to_q", "attn.to_k", "ff.net.2")
TEXT_LAYERS = [
    f"{clip}.text_model.encoder.layers.{number}.self_attn.{each}_proj"
    for clip in ("text_encoder", "text_encoder_2")
    for number in (0, 1)
    for each in ("q", "k", "v", "out")
]
STEPS = 2
# So small that the file which is left is the one that it began at.
STILL = {"learning_rate": 1e-12, "max_train_steps": 1, "lora_rank": None}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    settings = {"max_train_steps": STEPS, "checkpointing_steps": 1, "gradient_accumulation_steps": 1}
    run = SmallRun(tmp_path_factory.mktemp("init"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True) == 0
    return run


@pytest.fixture(scope="module")
def shapes(tiny_pipeline: Path) -> dict[str, torch.Size]:
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))
    denoiser = load_denoiser(parts, PrecisionOptions(mixed_precision="no"), torch.device("cpu"))
    return {name.removesuffix(".weight"): each.shape for name, each in denoiser.state_dict().items()}


def pairs_of(shapes: dict[str, torch.Size], *, rank: int, is_dora: bool = False) -> dict[str, Pair]:
    noise, found = torch.Generator().manual_seed(3), {}
    for name, shape in shapes.items():
        if name.endswith(LAYERS):
            down, up = (0.1 * torch.randn(size, generator=noise) for size in ((rank, shape[1]), (shape[0], rank)))
            magnitude = 1 + torch.rand(shape[0], generator=noise) if is_dora else None
            found[name] = Pair(down=down, up=up, alpha=rank / 2, magnitude=magnitude)
    return found


@pytest.mark.parametrize(
    ("form", "is_dora"),
    [("OneTrainer, legacy", True), ("OneTrainer, diffusers", True), ("SimpleTuner 4", False), ("peft", False)],
)
def test_a_run_begins_at_another_program_s_file(
    form: str,
    is_dora: bool,
    cached: SmallRun,
    shapes: dict[str, torch.Size],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = pairs_of(shapes, rank=3, is_dora=is_dora)
    file = FORMS[form](tmp_path / "theirs.safetensors", pairs)
    run = copied(cached, tmp_path / "run", init_lora=file, **STILL)
    assert run.start() == 0
    kind = "DoRA" if is_dora else "LoRA"
    alpha = "3" if "diffusers" in form else "1.5"  # which is multiplied in there
    assert f"{file}: a {kind} of rank 3 and alpha {alpha} on {len(pairs)} layers" in capsys.readouterr().out
    found = read_lora(run.output / "pytorch_lora_weights.safetensors")
    assert found.keys() == pairs.keys()
    for name, pair in pairs.items():
        torch.testing.assert_close(found[name].delta(), pair.delta(), atol=1e-5, rtol=1e-5)
        assert (found[name].rank, found[name].is_dora) == (3, is_dora)
        if is_dora:
            torch.testing.assert_close(found[name].magnitude, pair.magnitude, atol=1e-5, rtol=1e-5)


def test_it_goes_on_exactly_with_the_file_s_settings(
    cached: SmallRun, shapes: dict[str, torch.Size], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FORMS["kohya and ComfyUI"](tmp_path / "theirs.safetensors", pairs_of(shapes, rank=3))
    straight, stopped = (
        copied(cached, tmp_path / name, init_lora=file, lora_rank=None) for name in ("straight", "stopped")
    )
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(1, patched)
        assert stopped.start() == 143
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())


def test_text_encoders_begin_at_it_too(cached: SmallRun, shapes: dict[str, torch.Size], tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(4)
    texts = {
        name: Pair(down=torch.randn(3, width, generator=noise), up=torch.randn(width, 3, generator=noise), alpha=1.0)
        for name in TEXT_LAYERS
        for width in [24 if name.startswith("text_encoder_2") else 16]
    }
    pairs = pairs_of(shapes, rank=3) | texts
    file = FORMS["OneTrainer, ComfyUI"](tmp_path / "theirs.safetensors", pairs_joined(pairs))
    run = copied(cached, tmp_path / "run", init_lora=file, train_text_encoder=True, **STILL)
    assert run.start() == 0
    found = read_lora(run.output / "pytorch_lora_weights.safetensors")
    for name, pair in texts.items():
        torch.testing.assert_close(found[name].delta(), pair.delta(), atol=1e-4, rtol=1e-4)


def pairs_joined(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Without queries and keys, which a form that joins them with values can't hold alone."""
    return {name: pair for name, pair in pairs.items() if "attn.to_" not in name}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lora_rank": 8}, "its rank is 3"),
        ({"lora_rank": None, "lora_target": "attention"}, "leave LORA_TARGET out"),
        ({"lora_rank": None, "use_dora": True}, "it is not a DoRA"),
    ],
)
def test_a_dry_run_tells_of_settings_that_do_not_fit(
    settings: dict[str, Any],
    told: str,
    cached: SmallRun,
    shapes: dict[str, torch.Size],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = FORMS["OneTrainer, legacy"](tmp_path / "theirs.safetensors", pairs_of(shapes, rank=3))
    run = copied(cached, tmp_path / "run", init_lora=file, **settings)
    assert run.start(dry_run=True) == 1
    message = capsys.readouterr().err
    assert told in message
    assert f"INIT_LORA = {file}" in message


def test_a_file_that_is_no_lora_is_told_of_before_anything_is_encoded(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lora.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    run = copied(cached, tmp_path / "run", init_lora=tmp_path / "lora.safetensors")
    assert run.start() == 1
    message = capsys.readouterr().err
    assert "INIT_LORA = " in message
    assert "git-lfs pointer" in message
