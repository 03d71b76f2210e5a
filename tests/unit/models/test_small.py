"""A small pipeline is a whole SD3 that plain diffusers opens, and stays as it was made."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.errors import ModelError
from helpers.models.sd3.tiny import RECIPE_FILE, main, make_tiny_pipeline


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_plain_diffusers_draws_a_varied_image_with_it(diffusers_pipeline: Any) -> None:
    image = diffusers_pipeline(
        "a red fox",
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    assert image.shape == (64, 64, 3)
    assert image.std() > 0.1


def test_it_has_the_shape_of_sd3(tiny_pipeline: Path) -> None:
    def config(part: str) -> dict[str, Any]:
        return json.loads((tiny_pipeline / part / "config.json").read_text())

    transformer, vae, t5 = config("transformer"), config("vae"), config("text_encoder_3")
    clips = config("text_encoder"), config("text_encoder_2")
    assert transformer["num_layers"] >= 2
    assert transformer["patch_size"] == 2
    assert transformer["in_channels"] == vae["latent_channels"] == 16
    assert sum(clip["hidden_size"] for clip in clips) < t5["d_model"] == transformer["joint_attention_dim"]
    assert sum(clip["projection_dim"] for clip in clips) == transformer["pooled_projection_dim"]


def test_the_variants_of_sd3_5_are_made_on_request(tmp_path: Path) -> None:
    folder = make_tiny_pipeline(tmp_path / "medium", dual_attention=True, qk_norm="rms_norm")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config["dual_attention_layers"]
    assert config["qk_norm"] == "rms_norm"


def test_a_seed_makes_the_same_pipeline_and_another_seed_another(tiny_pipeline: Path, tmp_path: Path) -> None:
    assert contents(make_tiny_pipeline(tmp_path / "again", seed=0)) == contents(tiny_pipeline)
    other = contents(make_tiny_pipeline(tmp_path / "other", seed=1))
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert other[weights] != contents(tiny_pipeline)[weights]


def test_the_caller_s_random_numbers_are_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    make_tiny_pipeline(tmp_path / "small")
    assert torch.equal(torch.get_rng_state(), before)


def test_one_that_is_there_is_left_and_one_of_another_recipe_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    main([str(folder), "tiny"])
    made = (folder / "model_index.json").stat().st_mtime_ns
    main([str(folder), "tiny"])
    assert (folder / "model_index.json").stat().st_mtime_ns == made
    make_tiny_pipeline(folder, seed=5)
    assert json.loads((folder / RECIPE_FILE).read_text())["seed"] == 5
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_a_folder_that_holds_something_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(ModelError, match="has other content"):
        make_tiny_pipeline(tmp_path)
    assert contents(tmp_path) == {"diary.txt": b"mine"}


def test_an_unknown_size_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tiny, demo, bench"):
        make_tiny_pipeline(tmp_path / "small", size="huge")
