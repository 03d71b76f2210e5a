"""Whatever file is given for a LoRA or to be converted, the answer is a result or one message, never a traceback."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.config.options.model import LoraOptions
from helpers.convert import main
from helpers.errors import ModelError, UserError
from helpers.models.adapters.init_lora import options_from_file
from helpers.models.conversions import opened_model, to_comfyui_lora, to_diffusers_lora
from helpers.models.family import ModelComponents
from helpers.models.formats.lora import Pair
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.weights.lora_forms import read_lora
from tests.unit.models.lora_forms import FORMS

BLOCK = "transformer_blocks.0.attn.to_q"
LAYERS = (
    f"transformer.{BLOCK}",
    "transformer.pos_embed.proj",
    "transformer.norm_out.linear",
    "lora_unet_joint_blocks_0_x_block_attn_qkv",
    "lora_unet_x_embedder_proj",
    "lora_unet_final_layer_adaLN_modulation_1",
    "lora_transformer_transformer_blocks_0_attn_to_q",
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    "diffusion_model.joint_blocks.0.x_block.attn.qkv",
    f"diffusion_model.{BLOCK}",
    f"base_model.model.{BLOCK}",
    "lycoris_transformer_blocks_0_attn_to_q",
    "lycoris_pos_embed_proj",
    "joint_blocks.0.x_block.attn.qkv",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv",
    "model.diffusion_model.x_embedder.proj",
    "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
    "first_stage_model.decoder.conv_in",
    "lora_unet_double_blocks_0_img_attn_proj",
    "nothing",
)
ENDS = (
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora_down.weight",
    ".lora_up.weight",
    ".alpha",
    ".dora_scale",
    ".lora_magnitude_vector",
    ".lokr_w1",
    ".lokr_w2",
    ".lokr_w2_a",
    ".lokr_w2_b",
    ".hada_w1_a",
    ".hada_w1_b",
    ".hada_w2_a",
    ".hada_w2_b",
    ".diff",
    ".diff_b",
    ".weight",
    ".bias",
    ".weight_scale",
    ".comfy_quant",
    "",
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn)
NAMES = st.builds(str.__add__, st.sampled_from(LAYERS), st.sampled_from(ENDS)) | st.text(max_size=12)
SHAPES = st.sampled_from(
    [
        (),
        (0,),
        (1,),
        (32,),
        (2, 32),
        (32, 2),
        (0, 32),
        (96, 2),
        (2, 16, 2, 2),
        (32, 2, 1, 1),
        (32, 32),
        (1, 32),
        (32, 1),
        (2, 2, 2),
    ]
)
TEXTS = ["{}", "[]", "{", "null", "0", '{"transformer.lora_alpha": "x"}', '{"transformer.alpha_pattern": [1]}']
HEADERS = st.none() | st.dictionaries(
    st.sampled_from(["lora_adapter_metadata", "modelspec.architecture", "format", "shapes_leave_open"]),
    st.sampled_from(
        ["{}", "[]", "{", "null", '{"transformer.lora_alpha": "x"}', '{"transformer.alpha_pattern": [1]}', "0"]
    ),
    max_size=2,
)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    """Some tensors; half the time both matrices of a layer are among them."""
    found = {}
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    if draw(st.booleans()):
        layer, words = (
            draw(st.sampled_from(LAYERS)),
            draw(st.sampled_from([("lora_A", "lora_B"), ("lora_down", "lora_up")])),
        )
        names += [f"{layer}.{word}.weight" for word in words]
    for name in dict.fromkeys(name for name in names if name and name != "__metadata__"):
        dtype = draw(st.sampled_from(DTYPES))
        found[name] = (torch.rand(draw(SHAPES)) * 3).to(dtype)
    return found


def all_uses(file: Path, *, parts: ModelComponents, out: Path) -> Iterator[Any]:
    """Everything that may be done with a file, each on its own."""
    family = sd3_family()

    def begin() -> None:
        layers = family.adapter_layers(parts)
        options = LoraOptions(init_lora=str(file))
        options_from_file(options, given=(), pairs=read_lora(file), layers=layers, base="it", trains_text=False)

    def merge() -> None:
        with opened_model(file, base=parts, family=family) as model:
            for each in model.weights.values():
                each.make()
            model.write_single_file(out / "single.safetensors", family=family, with_text_encoders=True)

    def diffusers() -> None:
        to_diffusers_lora(file, out / "lora.safetensors", base=parts, family=family)

    def comfyui() -> None:
        to_comfyui_lora(file, out / "comfyui.safetensors", base=parts, family=family)

    yield from (begin, merge, diffusers, comfyui)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=tensors(), header=HEADERS)
def test_no_tensors_lead_to_a_traceback(
    content: dict[str, Tensor], header: dict[str, str] | None, parts: ModelComponents, tmp_path: Path
) -> None:
    file = tmp_path / "any.safetensors"
    save_file(content, file, metadata=header)
    for use in all_uses(file, parts=parts, out=tmp_path):
        with suppress(UserError):
            use()


class Files(dict[str, dict[str, Tensor]]):
    """Tensors of files, which a failing example does not print."""

    __repr__ = object.__repr__


@pytest.fixture(scope="module")
def whole_files(parts: ModelComponents, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The tensors of good files: a small LoRA in every form, a LyCORIS and a whole model."""
    folder, noise = tmp_path_factory.mktemp("whole"), torch.Generator().manual_seed(0)
    pairs = {
        name: Pair(down=torch.randn(2, 32, generator=noise), up=torch.randn(rows, 2, generator=noise), alpha=1.0)
        for name, rows in {**{BLOCK.replace("to_q", f"to_{each}"): 32 for each in "qkv"}, "norm_out.linear": 64}.items()
    }
    found = Files()
    for form, write in FORMS.items():
        file = write(folder / "lora.safetensors", pairs)
        found[form] = {name: each.clone() for name, each in load_file(file).items()}
    with opened_model(parts.transformer.parent, base=None, family=sd3_family()) as model:
        model.write_single_file(folder / "model.safetensors", family=sd3_family(), with_text_encoders=True)
    found["model"] = load_file(folder / "model.safetensors")
    found["LoKr"] = lycoris_on_a_convolution("lokr", torch.nn.Conv2d(16, 32, 2, stride=2))
    return found


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_good_file_leads_to_a_traceback(
    data: st.DataObject, whole_files: Files, parts: ModelComponents, tmp_path: Path
) -> None:
    content = dict(whole_files[data.draw(st.sampled_from(sorted(whole_files)))])
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(content)))
        tensor = content.pop(name)
        match data.draw(st.sampled_from(["lost", "shape", "dtype", "name", "transposed"])):
            case "shape":
                content[name] = torch.rand(data.draw(SHAPES))
            case "dtype":
                content[name] = tensor.to(data.draw(st.sampled_from(DTYPES)))
            case "name":
                content[data.draw(NAMES.filter(lambda each: each not in ("", "__metadata__")))] = tensor
            case "transposed" if tensor.dim() > 1:
                content[name] = tensor.transpose(0, 1).contiguous()
    file = tmp_path / "any.safetensors"
    save_file(content, file, metadata=data.draw(HEADERS))
    for use in all_uses(file, parts=parts, out=tmp_path):
        with suppress(UserError):
            use()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=64), declared=st.integers(min_value=0, max_value=2**63))
def test_no_bytes_lead_to_a_traceback(content: bytes, declared: int, parts: ModelComponents, tmp_path: Path) -> None:
    for text in (content, declared.to_bytes(8, "little") + content):
        (tmp_path / "any.safetensors").write_bytes(text)
        for use in all_uses(tmp_path / "any.safetensors", parts=parts, out=tmp_path):
            with pytest.raises(UserError):
                use()


def header_of(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


NOT_TENSORS = {
    "empty": (b"", "it is empty"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git-lfs pointer.*lfs pull"),
    "page": (b"<!DOCTYPE html><html>Access denied</html>", "web page.*download it again"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF file"),
    "pickle": (b"PK\x03\x04" + bytes(64), "PyTorch file"),
    "cut": (header_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"), "cut short"),
    "unknown dtype": (header_of({"a": {"dtype": "F99", "shape": [], "data_offsets": [0, 0]}}), "cannot be read"),
    "overlapping": (
        header_of({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for name in "ab"}, b"1234"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("kind", NOT_TENSORS)
@pytest.mark.parametrize("form", ["lora", "comfyui", "pipeline"])
def test_a_file_that_holds_no_tensors_is_named(
    kind: str, form: str, tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, told = NOT_TENSORS[kind]
    file = tmp_path / "lora.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=rf"lora\.safetensors.*{told}"):
        read_lora(file)
    assert main([str(file), str(tmp_path / "out"), "--to", form, "--base", str(tiny_pipeline)]) == 1
    message = capsys.readouterr().err
    assert str(file) in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


DOWN, UP = (f"transformer.{BLOCK}.lora_{each}.weight" for each in "AB")
NO_LORAS: dict[str, tuple[dict[str, Tensor], str]] = {
    "no tensors": ({}, "a file without any tensors"),
    "a model": ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.ones(2)}, "an SD3 model"),
    "newer fp8": ({"a.weight": torch.ones(2), "a.weight_scale": torch.ones(())}, "quantized"),
    "comfy_quant": ({"a.weight": torch.ones(2), "a.comfy_quant": torch.ones(2, dtype=torch.uint8)}, "quantized"),
    "LoKr": ({f"lycoris_{BLOCK}.lokr_w1": torch.ones(2, 2)}, "LoKr"),
    "LoHa": ({f"lora_unet_{BLOCK}.hada_w1_a": torch.ones(2, 2)}, "LoHa"),
    "VAE": ({"decoder.conv_in.weight": torch.ones(2)}, "a VAE"),
    "text encoder": ({"text_model.encoder.layers.0.mlp.fc1.weight": torch.ones(2)}, "a text encoder"),
    "Flux": ({"double_blocks.0.img_mlp.0.weight": torch.ones(2)}, "a Flux model"),
    "half": ({DOWN: torch.ones(2, 32)}, "no `up` matrix"),
    "integers": ({name: torch.ones(2, 2, dtype=torch.int8) for name in (DOWN, UP)}, "dtype torch.int8"),
    "no numbers": ({name: torch.full((2, 2), torch.nan) for name in (DOWN, UP)}, "NaN"),
    "no ranks": ({DOWN: torch.ones(0, 32), UP: torch.ones(32, 0)}, "an empty tensor"),
    "two ranks": ({DOWN: torch.ones(2, 32), UP: torch.ones(32, 3)}, "do not form a LoRA"),
}


@pytest.mark.parametrize("kind", NO_LORAS)
def test_what_is_no_lora_is_told_what_it_is(kind: str, tmp_path: Path) -> None:
    content, told = NO_LORAS[kind]
    save_file(content, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=rf"other\.safetensors .*{told}"):
        read_lora(tmp_path / "other.safetensors")


def lycoris_on_a_convolution(kind: str, layer: torch.nn.Conv2d) -> dict[str, Tensor]:
    """The library's own tensors of an adapter that now computes in the place of the embedder of patches."""
    from lycoris.modules.full import FullModule
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    types: Any = {"lokr": LokrModule, "loha": LohaModule, "lora": LoConModule, "full": FullModule}
    torch.manual_seed(3)
    more: dict[str, Any] = {"factor": 4} if kind == "lokr" else {}
    bypass = None if kind == "full" else True
    module = types[kind]("lycoris_pos_embed_proj", layer, 1, lora_dim=2, alpha=1, bypass_mode=bypass, **more)
    for parameter in module.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    module.apply_to()
    return {
        f"lycoris_pos_embed_proj.{name}": each.detach().clone().contiguous()
        for name, each in module.state_dict().items()
    }


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "full"])
def test_lycoris_on_a_convolution_is_merged(kind: str, parts: ModelComponents, tmp_path: Path) -> None:
    base = load_file(parts.transformer / "diffusion_pytorch_model.safetensors")
    before, bias = base["pos_embed.proj.weight"], base["pos_embed.proj.bias"]
    layer = torch.nn.Conv2d(*before.shape[1::-1], before.shape[2], stride=before.shape[2])
    layer.weight.data, layer.bias.data = before.clone(), bias.clone()  # type: ignore[union-attr]
    save_file(lycoris_on_a_convolution(kind, layer), tmp_path / "lycoris.safetensors")
    with opened_model(tmp_path / "lycoris.safetensors", base=parts, family=sd3_family()) as model:
        found = [model.weights[f"pos_embed.proj.{each}"].make() for each in ("weight", "bias")]
    inputs = torch.randn(2, before.shape[1], 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = layer(inputs)
    ours = torch.nn.functional.conv2d(inputs, *found, stride=before.shape[2])
    assert (theirs - torch.nn.functional.conv2d(inputs, before, bias, stride=before.shape[2])).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
