"""Text encoders and VAEs as single files are those of the folder: the same numbers under the same cache keys."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers import convert
from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.errors import ModelError
from helpers.models.family import ModelComponents, TextEncoderSpec
from helpers.models.formats.safetensors import lazy
from helpers.models.sd3.assets import ASSETS
from helpers.models.sd3.memory.architecture import KNOWN, text_encoder_of
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.vae import latent_part
from helpers.models.sd3.weights.component_files import part_identity
from helpers.models.sd3.weights.components import TEXT_ENCODERS, component_files, locate
from helpers.models.sd3.weights.original.config import config_of
from helpers.models.sd3.weights.original.text import text_to_diffusers
from tests.single_files import OPTIONS, all_component_files, component_file

CPU = torch.device("cpu")
WHOLE = PrecisionOptions(mixed_precision="no")
CAPTIONS = ["a red fox", "two green apples on wood"]
MATRIX = "encoder.block.1.layer.1.DenseReluDense.wo"

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def base(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file with nothing but the transformer and the VAE."""
    file = tmp_path_factory.mktemp("base") / "sd3.safetensors"
    assert convert.main([str(tiny_pipeline), str(file), "--to", "single-file"]) == 0
    return file


@pytest.fixture(scope="module")
def named(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options that name each component's own file."""
    return all_component_files(tiny_pipeline, tmp_path_factory.mktemp("components"))


def found(base: Path, **options: Any) -> ModelComponents:
    return locate(ModelOptions(pretrained_model_name_or_path=str(base), **options))


def encoders(parts: ModelComponents, **options: Any) -> tuple[TextEncoderSpec, ...]:
    return text_parts(parts, TextOptions(tokenizer_max_length=12, **options), WHOLE, CPU)


def keys(parts: ModelComponents) -> list[str]:
    """All that the caches' keys take from the model."""
    return [*(part.identity for part in encoders(parts)), latent_part(parts, WHOLE, CPU).identity]


def test_files_alone_are_the_folder(base: Path, named: dict[str, str], parts: ModelComponents) -> None:
    alone = found(base, **named)
    assert keys(alone) == keys(parts)
    for ours, theirs in zip(encoders(alone), encoders(parts), strict=True):
        one, other = ours.load().encode(CAPTIONS), theirs.load().encode(CAPTIONS)
        assert all(torch.equal(one[name], other[name]) for name in other)
    pixels = torch.arange(64 * 64 * 3).reshape(1, 64, 64, 3).remainder(251).to(torch.uint8)
    one, other = (latent_part(each, WHOLE, CPU).load().encode(pixels) for each in (alone, parts))
    assert torch.equal(one, other)


def test_what_comes_with_the_program_and_from_where_is_told(base: Path, named: dict[str, str]) -> None:
    alone = found(base, **named)
    assert (alone.flow_shift, alone.scheduler.parent) == (3.0, ASSETS)
    told = alone.describe_sources()
    assert "text_encoder_3 from t5xxl_fp16.safetensors" in told
    assert "tokenizers and scheduler from this program" in told


def test_each_component_s_files_are_told(base: Path, named: dict[str, str], tiny_pipeline: Path) -> None:
    files = component_files(found(base, **named | {OPTIONS["vae"]: str(tiny_pipeline)}))
    assert files["transformer"] == (base,)
    assert files["text_encoder_3"] == (Path(named[OPTIONS["text_encoder_3"]]),)
    weights = "diffusion_pytorch_model.safetensors"
    assert files["vae"] == (tiny_pipeline / "vae" / "config.json", tiny_pipeline / "vae" / weights)
    assert ASSETS / "tokenizer_3" / "spiece.model" in files["tokenizer_3"]
    assert all(file.is_file() for each in files.values() for file in each)


def test_a_vae_in_diffusers_names_is_the_same(
    base: Path, named: dict[str, str], parts: ModelComponents, tiny_pipeline: Path, tmp_path: Path
) -> None:
    for edit in (None, with_prefix):
        file = component_file(tiny_pipeline, "vae", tmp_path / "vae.safetensors", original=edit is not None, edit=edit)
        assert keys(found(base, **named | {OPTIONS["vae"]: str(file)})) == keys(parts)


def with_prefix(tensors: Tensors) -> None:
    for name in tuple(tensors):
        tensors[f"first_stage_model.{name}"] = tensors.pop(name)


def test_copies_and_shards_do_not_count(tiny_pipeline: Path, tmp_path: Path) -> None:
    """A T5's words are in some files twice; a folder has them in shards, and its config says more than matters."""

    def twice(tensors: Tensors) -> None:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()

    file = component_file(tiny_pipeline, "text_encoder_3", tmp_path / "t5.safetensors", edit=twice)
    folder = Path(shutil.copytree(tiny_pipeline / "text_encoder_3", tmp_path / "t5"))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number, some in enumerate((sorted(tensors)[:5], sorted(tensors)[5:]), 1):
        save_file({name: tensors[name] for name in some}, folder / f"model-0000{number}-of-00002.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dropout_rate": 0.3, "is_decoder": False}))
    places = (tiny_pipeline / "text_encoder_3", file / "text_encoder_3", folder)
    assert len({part_identity(place, None) for place in places}) == 1
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-5}))
    assert part_identity(folder, None) != part_identity(places[0], None)


def test_clip_l_without_its_projection_is_the_folder_with_the_one_that_changes_nothing(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline / "text_encoder", tmp_path / "clip"))
    tensors = load_file(folder / "model.safetensors") | {"text_projection.weight": torch.eye(16)}
    save_file(tensors, folder / "model.safetensors")

    def as_published(tensors: Tensors) -> None:
        del tensors["text_projection.weight"]
        tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        tensors["logit_scale"] = torch.tensor(4.6)

    file = component_file(tiny_pipeline, "text_encoder", tmp_path / "clip_l.safetensors", edit=as_published)
    assert part_identity(file / "text_encoder", None) == part_identity(folder, None)


def scaled(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = tensors[f"{MATRIX}.weight"].to(torch.float8_e4m3fn)
    tensors[f"{MATRIX}.scale_weight"] = torch.tensor(0.5)
    tensors["scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)


def scaled_in_newer_words(tensors: Tensors) -> None:
    scaled(tensors)
    tensors[f"{MATRIX}.weight_scale"] = tensors.pop(f"{MATRIX}.scale_weight")
    del tensors["scaled_fp8"]
    said = json.dumps({"format": "float8_e4m3fn"}).encode()
    tensors[f"{MATRIX}.comfy_quant"] = torch.tensor(list(said), dtype=torch.uint8)


@pytest.mark.parametrize("edit", [scaled, scaled_in_newer_words])
def test_t5_of_8_bits_is_read_with_its_scales(
    edit: Callable[[Tensors], None], base: Path, named: dict[str, str], tiny_pipeline: Path, tmp_path: Path
) -> None:
    def made_whole(tensors: Tensors) -> None:
        eight = tensors[f"{MATRIX}.weight"].to(torch.float8_e4m3fn)
        tensors[f"{MATRIX}.weight"] = (eight.float() * 0.5).to(torch.bfloat16)

    outputs, identities = [], set()
    for number, change in enumerate((edit, made_whole)):
        file = component_file(tiny_pipeline, "text_encoder_3", tmp_path / f"{number}.safetensors", edit=change)
        t5 = encoders(found(base, **named | {OPTIONS["text_encoder_3"]: str(file)}))[2]
        outputs.append(t5.load().encode(CAPTIONS)["hidden"])
        identities.add(t5.identity)
    assert torch.equal(*outputs)
    assert len(identities) == 2, "they are the same numbers by chance of these weights alone"


def of_int8(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = tensors[f"{MATRIX}.weight"].to(torch.int8)


def of_another_vocabulary(tensors: Tensors) -> None:
    tensors["shared.weight"] = torch.cat([tensors["shared.weight"]] * 2)


@pytest.mark.parametrize(
    ("part", "source", "edit", "said"),
    [
        ("text_encoder_3", "text_encoder", None, r"contains no T5 of a known kind, but CLIP-L and CLIP-G"),
        ("vae", "text_encoder_3", None, r"contains no VAE of a known kind, but T5"),
        ("text_encoder", "vae", None, r"contains no CLIP-L of a known kind, but VAE"),
        ("text_encoder_2", "text_encoder", None, r"are 16 and 16 wide"),
        ("text_encoder_3", "text_encoder_3", of_int8, r"wo\.weight is quantized to torch\.int8.*fp16 or fp8"),
        ("text_encoder_3", "text_encoder_3", of_another_vocabulary, r"64,256 words and does not fit"),
    ],
)
def test_a_file_that_does_not_fit_is_told(
    part: str,
    source: str,
    edit: Callable[[Tensors], None] | None,
    said: str,
    base: Path,
    named: dict[str, str],
    tiny_pipeline: Path,
    tmp_path: Path,
) -> None:
    file = component_file(tiny_pipeline, source, tmp_path / "odd.safetensors", edit=edit)
    if part != source:  # so that its header tells of the place that it is put in
        tensors, told = load_file(file), {"shapes_leave_open": json.dumps({part: {"num_attention_heads": 2}})}
        save_file(tensors, file, metadata=told)
    with pytest.raises(ModelError, match=said):
        found(base, **named | {OPTIONS[part]: str(file)})


def test_clips_in_each_other_s_place_are_told(base: Path, named: dict[str, str], tiny_pipeline: Path) -> None:
    swapped = {OPTIONS["text_encoder"]: str(tiny_pipeline / "text_encoder_2")}
    swapped |= {OPTIONS["text_encoder_2"]: str(tiny_pipeline / "text_encoder")}
    with pytest.raises(ModelError, match=r"are 24 and 16 wide.*not swapped"):
        found(base, **named | swapped)


def test_what_a_file_lacks_is_listed_with_its_settings(base: Path, named: dict[str, str]) -> None:
    with pytest.raises(ModelError) as caught:
        found(base, **{OPTIONS["text_encoder_2"]: named[OPTIONS["text_encoder_2"]]})
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{base} lacks text_encoder, text_encoder_3.")
    assert lines[1].startswith(
        "  text_encoder (CLIP-L): set PRETRAINED_CLIP_L_MODEL_NAME_OR_PATH to clip_l.safetensors"
    )
    assert lines[2].startswith("  text_encoder_3 (T5): set PRETRAINED_T5_MODEL_NAME_OR_PATH to")
    assert lines[2].endswith("or set it to none to train without T5")
    assert "PRETRAINED_PARTS_MODEL_NAME_OR_PATH" in lines[3]


def test_a_folder_s_missing_tokenizer_comes_with_the_program(
    parts: ModelComponents, tiny_pipeline: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "less", ignore=shutil.ignore_patterns("tokenizer_2")))
    less = found(folder)
    assert less.tokenizers == (folder / "tokenizer", ASSETS / "tokenizer_2", folder / "tokenizer_3")
    assert keys(less) == keys(parts)


def test_t5_s_other_tokenizer_file_counts_only_where_it_is_another(
    parts: ModelComponents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashlib import sha256

    from helpers.models.sd3 import assets

    hub = Path(shutil.copytree(ASSETS / "tokenizer_3", tmp_path / "tokenizer_3"))
    (hub / "tokenizer.json").write_text("{}")
    assert assets.tokenizer_identity(hub) != assets.tokenizer_identity(ASSETS / "tokenizer_3")
    monkeypatch.setattr(assets, "REDUNDANT", ("tokenizer.json", sha256(b"{}").hexdigest()))
    assert assets.tokenizer_identity(hub) == assets.tokenizer_identity(ASSETS / "tokenizer_3")


@pytest.mark.parametrize("variant", ["fp16", None])
def test_shards_as_diffusers_named_them_before(variant: str | None, tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "legacy"))
    whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    for number, some in enumerate((sorted(tensors)[:9], sorted(tensors)[9:]), 1):
        for middle in ("", ".fp16"):
            name = f"diffusion_pytorch_model-0000{number}-of-00002{middle}.safetensors"
            save_file({each: tensors[each] for each in some}, folder / "transformer" / name)
    legacy = found(folder, variant=variant)
    names = [file.name for file in component_files(legacy)["transformer"][1:]]
    middle = ".fp16" if variant else ""
    assert names == [f"diffusion_pytorch_model-0000{number}-of-00002{middle}.safetensors" for number in (1, 2)]
    (folder / "transformer" / names[1]).unlink()
    with pytest.raises(ModelError, match=f"lacks {names[1]}; is the download complete"):
        found(folder, variant=variant)


def test_the_files_that_people_have_are_the_published_text_encoders() -> None:
    """By the names and shapes of clip_l, clip_g and t5xxl_fp16, which hold no config."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    clips = ({"hidden_size": 768, "num_hidden_layers": 12}, {"hidden_size": 1280, "num_hidden_layers": 32})
    with torch.device("meta"):
        models = [
            CLIPTextModelWithProjection(
                CLIPTextConfig(**each, intermediate_size=4 * each["hidden_size"], projection_dim=each["hidden_size"])
            )
            for each in clips
        ]
        t5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
        models.append(T5EncoderModel(T5Config(**t5, feed_forward_proj="gated-gelu")))
    for part, model, known in zip(TEXT_ENCODERS, models, KNOWN["SD3 medium"].text_encoders, strict=True):
        tensors = lazy(model.state_dict())
        if part == "text_encoder":
            del tensors["text_projection.weight"]
        config = config_of(text_to_diffusers(tensors, part), part)
        assert text_encoder_of(config) == known
