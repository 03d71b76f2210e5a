"""A folder that is handed on opens with diffusers, whatever the names that the base's files have."""

import shutil
from pathlib import Path

import pytest
import torch

from helpers.config.options.model import ModelOptions, PrecisionOptions
from helpers.models.sd3.transformer import load_denoiser
from helpers.models.sd3.weights.components import locate
from helpers.models.sd3.weights.pipeline import write_pipeline


@pytest.fixture
def in_variants(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The small SD3 with every part in fp16, beside weights nobody should take, and one of them in shards."""
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection

    folder = tmp_path / "base"
    shutil.copytree(tiny_pipeline, folder)
    for part in ("transformer", "vae", "text_encoder_2", "text_encoder_3"):
        for file in folder.glob(f"{part}/*.safetensors"):
            file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"another")
    model = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder")
    (folder / "text_encoder" / "model.safetensors").unlink()
    model.save_pretrained(folder / "text_encoder", max_shard_size="1MB", variant="fp16")
    assert len(list(folder.glob("text_encoder/*fp16-*.safetensors"))) > 1
    assert SD3Transformer2DModel.from_pretrained(folder / "transformer", variant="fp16")
    return folder


def test_parts_of_a_variant_are_handed_on_under_plain_names(
    in_variants: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Pipeline

    parts = locate(ModelOptions(pretrained_model_name_or_path=str(in_variants), variant="fp16"))
    denoiser = load_denoiser(parts, PrecisionOptions(mixed_precision="no"), torch.device("cpu"))
    with torch.no_grad():
        next(denoiser.parameters()).add_(1)
    (tmp_path / "out").mkdir()
    write_pipeline(denoiser.state_dict(), parts, tmp_path / "out", text={}, metadata={"step": "3"})
    assert not list((tmp_path / "out").rglob("*fp16*"))

    found = StableDiffusion3Pipeline.from_pretrained(tmp_path / "out")
    expected = StableDiffusion3Pipeline.from_pretrained(tiny_pipeline)
    for name in ("vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        theirs, ours = getattr(expected, name).state_dict(), getattr(found, name).state_dict()
        assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items()), name
    assert all(torch.equal(found.transformer.state_dict()[key], each) for key, each in denoiser.state_dict().items())
    assert found.tokenizer_3("a cat").input_ids == expected.tokenizer_3("a cat").input_ids
    assert found.scheduler.config.shift == expected.scheduler.config.shift
    assert all(str(in_variants) not in file.read_text() for file in (tmp_path / "out").rglob("*.json"))


def test_the_base_is_copied_and_not_linked(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A program that saves in place into the folder must not write through into the person's base."""
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))
    denoiser = load_denoiser(parts, PrecisionOptions(mixed_precision="no"), torch.device("cpu"))
    write_pipeline(denoiser.state_dict(), parts, tmp_path, text={}, metadata={})
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.stat().st_nlink for file in files} == {1}
    assert not any(file.is_symlink() for file in files)
