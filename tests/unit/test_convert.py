"""The command makes of each form the others, and takes nothing away."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.convert import main
from helpers.models.formats.lora import Pair, write_diffusers_lora

TEXT_LAYER = "text_model.encoder.layers.1.self_attn.q_proj"
LAYERS = ("transformer_blocks.0.attn.to_q", "transformer_blocks.2.norm1_context.linear", "norm_out.linear")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(0)
    pairs = {
        name: Pair(down=torch.randn(2, 32, generator=draw), up=torch.randn(rows, 2, generator=draw), alpha=2)
        for name, rows in zip(LAYERS, (32, 64, 64), strict=True)
    }
    of_text = Pair(down=torch.randn(2, 24, generator=draw), up=torch.randn(24, 2, generator=draw), alpha=2)
    pairs[f"text_encoder_2.{TEXT_LAYER}"] = of_text
    write_diffusers_lora(tmp_path / "lora.safetensors", pairs, metadata={"step": "7"})
    return tmp_path / "lora.safetensors"


def assert_same(first: Path, second: Path) -> None:
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_forms_lead_to_one_another(lora: Path, tiny_pipeline: Path, tmp_path: Path, capsys: object) -> None:
    def convert(source: Path, name: str, form: str, *more: str) -> Path:
        assert main([str(source), str(tmp_path / name), "--to", form, *more]) == 0
        return tmp_path / name

    base = ("--base", str(tiny_pipeline))
    comfyui = convert(lora, "comfyui.safetensors", "comfyui")
    assert_same(convert(comfyui, "back.safetensors", "lora"), lora)
    merged = convert(comfyui, "merged", "pipeline", *base)
    assert not torch.equal(
        load_file(merged / WEIGHTS)[f"{LAYERS[0]}.weight"], load_file(tiny_pipeline / WEIGHTS)[f"{LAYERS[0]}.weight"]
    )
    clip, before = (load_file(folder / "text_encoder_2/model.safetensors") for folder in (merged, tiny_pipeline))
    assert {name for name in clip if not torch.equal(clip[name], before[name])} == {f"{TEXT_LAYER}.weight"}
    single = convert(merged, "single.safetensors", "single-file")
    at_once = load_file(convert(lora, "at once.safetensors", "single-file", *base))
    of_clip = {name: at_once.pop(name) for name in list(at_once) if name.startswith("text_encoders.")}
    assert torch.equal(of_clip[f"text_encoders.clip_g.transformer.{TEXT_LAYER}.weight"], clip[f"{TEXT_LAYER}.weight"])
    assert any(name.startswith("text_encoders.clip_l.transformer.") for name in of_clip)
    assert all(torch.equal(tensor, at_once.pop(name)) for name, tensor in load_file(single).items())
    assert not at_once
    assert_same(convert(single, "again", "pipeline", *base) / WEIGHTS, merged / WEIGHTS)


def test_a_dora_gets_what_comfyui_needs_where_the_base_is_given(tiny_pipeline: Path, tmp_path: Path) -> None:
    pair = Pair(down=torch.ones(2, 32), up=torch.ones(32, 2), alpha=2, magnitude=torch.ones(32))
    write_diffusers_lora(tmp_path / "dora.safetensors", {LAYERS[0]: pair}, metadata={})
    for name, more in (("as it is", ()), ("for both", ("--base", str(tiny_pipeline)))):
        target = tmp_path / f"{name}.safetensors"
        assert main([str(tmp_path / "dora.safetensors"), str(target), "--to", "lora", *more]) == 0
        added = load_file(target).keys() - load_file(tmp_path / "dora.safetensors").keys()
        assert added == ({f"transformer.{LAYERS[0]}.dora_scale"} if more else set())


def test_nothing_that_is_there_is_replaced(lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = lora.read_bytes()
    assert main([str(lora), str(lora), "--to", "comfyui"]) == 1
    assert "there already" in capsys.readouterr().err
    assert lora.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "form", "told"),
    [("lora", "pipeline", "name its base model"), ("nothing", "lora", "there is no such file")],
)
def test_what_cannot_be_made_is_told(
    name: str, form: str, told: str, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(lora.with_stem(name)), str(tmp_path / "out"), "--to", form]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_is_not_taken_for_a_lora(
    lora: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, told in ((lora.parent, f"name the file, such as {lora}"), (tiny_pipeline, "`--to single-file`")):
        assert main([str(source), str(tmp_path / "out"), "--to", "comfyui"]) == 1
        assert told in capsys.readouterr().err


def test_a_lora_for_another_base_is_refused(
    lora: Path, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = {LAYERS[0]: Pair(down=torch.ones(2, 64), up=torch.ones(64, 2), alpha=2)}
    write_diffusers_lora(tmp_path / "wide.safetensors", wide, metadata={})
    for form in ("pipeline", "single-file", "comfyui"):
        arguments = [str(tmp_path / "wide.safetensors"), str(tmp_path / "out"), "--to", form]
        assert main([*arguments, "--base", str(tiny_pipeline)]) == 1
        assert "[64, 64], but the base model has [32, 32] there" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_model_is_not_taken_for_a_lora(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_pipeline), str(tmp_path / "model.safetensors"), "--to", "single-file"]) == 0
    assert main([str(tmp_path / "model.safetensors"), str(tmp_path / "out"), "--to", "lora"]) == 1
    assert "holds no LoRA: it is an SD3 model in the original layout" in capsys.readouterr().err
