"""The parts in one file are those that a folder had, and a file that is not whole, or not SD3's, is refused at once."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers import convert
from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.errors import ModelError
from helpers.models.family import ModelComponents
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.weights.component_files import part_identity, read_config
from helpers.models.sd3.weights.components import locate
from helpers.models.sd3.weights.original.file import open_in_file

T5, CLIP_L = "text_encoders.t5xxl.transformer.", "text_encoders.clip_l.transformer."
DIFFUSION = "model.diffusion_model."
OUT = "joint_blocks.1.x_block.attn.proj"
MATRIX = f"{T5}encoder.block.1.layer.1.DenseReluDense.wo"

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("whole") / "sd3.safetensors"
    assert convert.main([str(tiny_pipeline), str(file), "--to", "single-file", "--with-text-encoders"]) == 0
    return file


def found(file: Path, rest: Path, **more: str) -> ModelComponents:
    said = {"pretrained_parts_model_name_or_path": str(rest), **more}
    return locate(ModelOptions(pretrained_model_name_or_path=str(file), **said))  # type: ignore[arg-type]


@contextmanager
def edited(whole: Path, to: Path) -> Iterator[Tensors]:
    """The file's tensors, which are written to `to` as they are in the end; what its header says stays."""
    from safetensors import safe_open

    tensors = load_file(whole)
    yield tensors
    with safe_open(whole, framework="pt") as file:
        save_file(tensors, to, metadata=file.metadata())


def test_each_part_comes_from_who_is_named_for_it_then_the_file_then_the_rest(
    whole: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    parts = found(whole, tiny_pipeline)
    assert (parts.vae, parts.text_encoders[2]) == (whole / "vae", whole / "text_encoder_3")
    assert parts.describe_sources().endswith(f"tokenizers and scheduler from {tiny_pipeline}")
    named = found(whole, tiny_pipeline, pretrained_vae_model_name_or_path=str(tiny_pipeline / "vae"))
    assert (named.vae, named.transformer) == (tiny_pipeline / "vae", whole / "transformer")
    with edited(whole, tmp_path / "less.safetensors") as tensors:
        for name in [name for name in tensors if name.startswith(T5)]:
            del tensors[name]
    assert found(tmp_path / "less.safetensors", tiny_pipeline).text_encoders[2] == tiny_pipeline / "text_encoder_3"
    rest = shutil.copytree(tiny_pipeline, tmp_path / "rest", ignore=shutil.ignore_patterns("text_encoder_3"))
    with pytest.raises(ModelError, match="lacks text_encoder_3"):
        found(tmp_path / "less.safetensors", rest)


def test_a_part_is_known_again_in_another_file(whole: Path, tmp_path: Path) -> None:
    """Caches and checkpoints hold, where another part of the file is another."""
    with edited(whole, tmp_path / "other.safetensors") as tensors:
        tensors[f"{MATRIX}.weight"] += 1
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        before, after = (part_identity(file / part, None) for file in (whole, tmp_path / "other.safetensors"))
        assert (before == after) == (part != "text_encoder_3")


@pytest.mark.parametrize("scale", [None, 0.25])
def test_weights_of_8_bits_are_read_exactly(
    scale: float | None,
    whole: Path,
    tiny_pipeline: Path,
    full_precision: PrecisionOptions,
    cpu: torch.device,
    tmp_path: Path,
) -> None:
    file = tmp_path / "fp8.safetensors"
    expected = tmp_path / "expected"
    with edited(whole, file) as tensors:
        for name in [name for name in tensors if name.startswith(T5)]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        if scale:
            tensors[f"{MATRIX}.scale_weight"] = torch.tensor(scale)
            tensors[f"{T5}scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    shutil.copytree(tiny_pipeline, expected)
    weights = {name: each.to(torch.float8_e4m3fn).float() for name, each in load_file(whole).items() if T5 in name}
    weights[f"{MATRIX}.weight"] *= scale or 1
    save_file(
        {name.removeprefix(T5): each for name, each in weights.items()}, expected / "text_encoder_3/model.safetensors"
    )
    outputs = []
    for parts in (found(file, tiny_pipeline), locate(ModelOptions(pretrained_model_name_or_path=str(expected)))):
        t5 = text_parts(parts, TextOptions(tokenizer_max_length=8), full_precision, cpu)[2].load()
        outputs.append(t5.encode(["a cat"])["hidden"])
    assert torch.equal(*outputs)


def test_what_published_files_leave_out_is_filled_in(whole: Path, tmp_path: Path) -> None:
    """CLIP-L without its projection, which SD3 does not apply, and with what no model reads."""
    with edited(whole, tmp_path / "published.safetensors") as tensors:
        del tensors[f"{CLIP_L}text_projection.weight"]
        tensors["text_encoders.clip_l.logit_scale"] = torch.tensor(4.6)
        tensors[f"{CLIP_L}text_model.embeddings.position_ids"] = torch.arange(77)[None]
    with open_in_file(tmp_path / "published.safetensors", "text_encoder") as (clip, _):
        assert torch.equal(clip["text_projection.weight"].make(), torch.eye(16))
    assert read_config(tmp_path / "published.safetensors" / "text_encoder")["projection_dim"] == 16


def lose_a_layer(tensors: Tensors) -> None:
    del tensors[f"{DIFFUSION}{OUT}.weight"]


def lose_an_end(tensors: Tensors) -> None:
    del tensors[f"{DIFFUSION}x_embedder.proj.weight"]


def lose_a_bias(tensors: Tensors) -> None:
    del tensors[f"{DIFFUSION}{OUT}.bias"]


def have_half_a_second_attention(tensors: Tensors) -> None:
    tensors[f"{DIFFUSION}joint_blocks.1.x_block.attn2.proj.weight"] = tensors[f"{DIFFUSION}{OUT}.weight"].clone()


def lose_of_the_vae(tensors: Tensors) -> None:
    del tensors["first_stage_model.decoder.mid.block_1.conv2.weight"]


def lose_of_clip(tensors: Tensors) -> None:
    del tensors[f"{CLIP_L}text_model.encoder.layers.0.mlp.fc1.bias"]


def have_a_third_stream(tensors: Tensors) -> None:
    tensors[f"{DIFFUSION}audio_embedder.weight"] = torch.ones(1)


def have_another_encoder(tensors: Tensors) -> None:
    tensors["text_encoders.gemma.weight"] = torch.ones(1)


def have_a_decoder(tensors: Tensors) -> None:
    tensors[f"{T5}decoder.block.0.weight"] = torch.ones(1)


def be_an_sdxl(tensors: Tensors) -> None:
    tensors.clear()
    tensors[f"{DIFFUSION}input_blocks.0.0.weight"] = torch.ones(1)


def be_a_flux(tensors: Tensors) -> None:
    tensors.clear()
    tensors[f"{DIFFUSION}double_blocks.0.img_attn.proj.weight"] = torch.ones(1)


def be_a_lora(tensors: Tensors) -> None:
    tensors.clear()
    tensors["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"] = torch.ones(1)


def be_a_lora_of_kohya_s(tensors: Tensors) -> None:
    tensors.clear()
    tensors["lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight"] = torch.ones(1)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lose_a_layer, r"sd3\.safetensors.*lacks the tensor.* transformer_blocks\.1\.attn\.to_out\.0"),
        (lose_an_end, r"sd3\.safetensors.*transformer lacks the tensor pos_embed\.proj\.weight"),
        (lose_a_bias, r"transformer lacks the tensor transformer_blocks\.1\.attn\.to_out\.0\.bias"),
        (have_half_a_second_attention, r"tensor transformer_blocks\.1\.attn2\.to_out\.0\.weight, which does not fit"),
        (lose_of_the_vae, r"VAE lacks the tensor decoder\.mid\.block_1\.conv2\.weight"),
        (lose_of_clip, r"text_encoder lacks the tensor .*layers\.0\.mlp\.fc1\.bias"),
        (have_a_third_stream, "has a tensor audio_embedder"),
        (have_another_encoder, r"holds text_encoders\.gemma\.weight, which is unknown in files of SD3"),
        (have_a_decoder, r"has a tensor decoder\.block\.0\.weight"),
        (be_an_sdxl, "is a Stable Diffusion 1, 2 or XL"),
        (be_a_flux, "is a Flux model"),
        (be_a_lora, "is a LoRA.*--init_lora"),
        (be_a_lora_of_kohya_s, "is a LoRA.*--init_lora"),
    ],
)
def test_a_bad_file_is_refused(
    spoil: Callable[[Tensors], None], said: str, whole: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    with edited(whole, tmp_path / "sd3.safetensors") as tensors:
        spoil(tensors)
    with pytest.raises(ModelError, match=said):
        found(tmp_path / "sd3.safetensors", tiny_pipeline)


def test_a_cut_file_and_one_of_unknown_heads_are_refused(whole: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-9])
    save_file(load_file(whole), tmp_path / "unknown.safetensors")
    for name, said in (
        ("cut", r"cut\.safetensors cannot be read.*cut short"),
        ("unknown", "not a multiple of 64"),
    ):
        with pytest.raises(ModelError, match=said):
            found(tmp_path / f"{name}.safetensors", tiny_pipeline)
