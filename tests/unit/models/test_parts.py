"""A whole SD3 is found and told apart by its shape; anything else is refused in words that say what to do."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.family import ModelComponents
from helpers.models.sd3.weights.components import locate

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "a copy"))


def found(folder: Path, **options: Any) -> ModelComponents:
    return locate(ModelOptions(pretrained_model_name_or_path=str(folder), **options))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_copy_elsewhere_is_the_same_model(parts: ModelComponents, folder: Path) -> None:
    copy = found(folder)
    assert copy.identity == parts.identity
    assert copy.flow_shift == 3.0
    assert copy.transformer == folder / "transformer"
    assert [path.name for path in copy.tokenizers] == ["tokenizer", "tokenizer_2", "tokenizer_3"]


def test_a_trained_transformer_is_another_model(parts: ModelComponents, folder: Path) -> None:
    weights = folder / "transformer" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert found(folder).identity != parts.identity


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"num_layers": 24}, "SD3 medium"),
        ({"num_layers": 24, "dual_attention_layers": [0, 1], "qk_norm": "rms_norm"}, "SD3.5 medium"),
        ({"num_layers": 38, "qk_norm": "rms_norm"}, "SD3.5 large"),
        ({"num_layers": 3}, "SD3 of 3 layers"),
    ],
)
def test_the_variant_is_read_from_the_shape(folder: Path, changes: dict[str, Any], variant: str) -> None:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    transformer = folder / "transformer"
    edit(transformer / "config.json", **changes)
    model: Any = SD3Transformer2DModel.from_config(json.loads((transformer / "config.json").read_text()))
    model.save_pretrained(transformer)
    assert found(folder).variant == variant


def remove_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def be_flux(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name="FluxPipeline")


def be_flux_inside(folder: Path) -> None:
    edit(folder / "transformer" / "config.json", _class_name="FluxTransformer2DModel")


def remove_t5(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder_3")


def remove_vae_weights(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "diffusion_pytorch_model.bin")


def keep_one_shard(folder: Path) -> None:
    (folder / "vae" / WEIGHTS).rename(folder / "vae" / "diffusion_pytorch_model-00001-of-00002.safetensors")


def break_config(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text("{")


def keep_half_of_a_shard(folder: Path) -> None:
    first = folder / "transformer" / WEIGHTS
    content = first.read_bytes()
    first.unlink()
    for number in (1, 2):
        shard = folder / "transformer" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"
        shard.write_bytes(content[: len(content) // number])


def name_other_layers(folder: Path) -> None:
    edit(folder / "transformer" / "config.json", num_layers=5)


def name_other_width(folder: Path) -> None:
    edit(folder / "transformer" / "config.json", pooled_projection_dim=7)


def take_another_vae(folder: Path) -> None:
    edit(folder / "vae" / "config.json", latent_channels=4)


def take_another_t5(folder: Path) -> None:
    edit(folder / "text_encoder_3" / "config.json", d_model=768)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (remove_index, "no model_index.json"),
        (be_flux, "is a FluxPipeline; this program trains Stable Diffusion 3"),
        (be_flux_inside, "is a FluxTransformer2DModel"),
        (remove_t5, "lacks text_encoder_3.*\n.*PRETRAINED_T5_MODEL_NAME_OR_PATH.* none .*\n.*PRETRAINED_PARTS_MODEL"),
        (remove_vae_weights, "vae has no safetensors weights.*it has diffusion_pytorch_model.bin"),
        (keep_one_shard, "lacks diffusion_pytorch_model-00002-of-00002.safetensors"),
        (break_config, "config.json cannot be read"),
        (keep_half_of_a_shard, "cut short: .* bytes are there"),
        (name_other_layers, r"norm1_context.* has 2,048 values, but 6,144 by its config.json"),
        (name_other_width, "has .* values, but .* by its config.json"),
        (take_another_vae, "makes 4 latent channels, but the transformer takes 16"),
        (take_another_t5, "is 768 wide, but the transformer takes 48"),
    ],
)
def test_what_is_no_whole_sd3_is_refused(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(ModelError, match=said):
        found(folder)


def test_the_vae_and_t5_may_come_from_elsewhere(parts: ModelComponents, folder: Path, tiny_pipeline: Path) -> None:
    remove_t5(folder)
    shutil.rmtree(folder / "vae")
    both = found(
        folder,
        pretrained_vae_model_name_or_path=str(tiny_pipeline),
        pretrained_t5_model_name_or_path=str(tiny_pipeline / "text_encoder_3"),
    )
    assert both.vae == tiny_pipeline / "vae"
    assert both.text_encoders[2] == tiny_pipeline / "text_encoder_3"
    assert both.identity == parts.identity


def test_all_but_the_transformer_may_come_from_elsewhere(
    parts: ModelComponents, folder: Path, tiny_pipeline: Path
) -> None:
    shutil.rmtree(folder / "vae")
    shutil.rmtree(folder / "tokenizer")
    both = found(folder, pretrained_parts_model_name_or_path=str(tiny_pipeline))
    assert both.transformer == folder / "transformer"
    assert replace(both, transformer=parts.transformer, name=parts.name) == parts


def test_a_weights_variant_is_taken_where_a_part_has_it(parts: ModelComponents, folder: Path) -> None:
    plain = folder / "transformer" / WEIGHTS
    (folder / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(plain.read_bytes())
    assert found(folder).identity == parts.identity
    wanted = found(folder, variant="fp16")
    assert wanted.identity != parts.identity
    assert replace(wanted, identity="", weights_variant=None) == replace(found(folder), identity="")
    plain.unlink()
    with pytest.raises(ModelError, match=r"it has diffusion_pytorch_model\.fp16\.safetensors.*--variant"):
        found(folder)


def test_a_path_that_is_not_there_and_a_single_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a folder on this machine"):
        found(tmp_path / "nowhere")
    (tmp_path / "sd3.safetensors").touch()
    with pytest.raises(ModelError, match="cannot be read as tensors"):
        found(tmp_path / "sd3.safetensors")
