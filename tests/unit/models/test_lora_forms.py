"""A LoRA is the same LoRA in the names of every program that writes one, and a run begins at any of them."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.errors import ConfigError, ModelError
from helpers.models.adapters.init_lora import options_from_file
from helpers.models.adapters.lora import make_lora
from helpers.models.conversions import opened_model, to_comfyui_lora, to_diffusers_lora
from helpers.models.family import ModelComponents
from helpers.models.formats.lora import Pair, of_transformer
from helpers.models.quantization import dequantize
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.transformer import load_denoiser, predict, target_modules
from helpers.models.sd3.weights.comfyui_lora import MOST_BLOCKS
from helpers.models.sd3.weights.lora_forms import read_lora
from helpers.models.sd3.weights.original.keys import layers
from tests.unit.models.lora import inputs_of
from tests.unit.models.lora_forms import FORMS, WITHOUT_DORA, WITHOUT_TEXT, onetrainer_legacy

MORE_LAYERS = (
    "norm_out.linear",
    "transformer_blocks.0.norm1.linear",
    "transformer_blocks.2.norm1_context.linear",
    "transformer_blocks.2.attn.add_q_proj",
)
TEXT_LAYER = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> nn.Module:
    return load_denoiser(parts, full_precision, cpu)


def pairs_on(base: nn.Module, *, names: tuple[str, ...] = MORE_LAYERS, is_dora: bool = False) -> dict[str, Pair]:
    """A LoRA of rank 3 on all attention and some more layers, alpha 2."""
    noise = torch.Generator().manual_seed(5)
    found = {}
    for name in (*target_modules(base, "attention"), *names):
        weight = dequantize(base.get_submodule(name))
        down, up = (0.2 * torch.randn(shape, generator=noise) for shape in ((3, weight.shape[1]), (weight.shape[0], 3)))
        lengths = weight.norm(dim=1) * (1 + 0.3 * torch.rand(len(weight), generator=noise)) if is_dora else None
        found[name] = Pair(down=down, up=up, alpha=2.0, magnitude=lengths)
    return found


def assert_same(found: Mapping[str, Pair], wanted: Mapping[str, Pair]) -> None:
    assert found.keys() == wanted.keys()
    for name, pair in wanted.items():
        torch.testing.assert_close(found[name].delta(), pair.delta(), atol=1e-6, rtol=1e-6)
        assert found[name].rank == pair.rank
        assert (found[name].magnitude is None) == (pair.magnitude is None)
        if pair.magnitude is not None:
            assert torch.equal(found[name].magnitude, pair.magnitude)  # type: ignore[arg-type]


def predicted(denoiser: nn.Module) -> Tensor:
    with torch.no_grad():
        return predict(denoiser, *inputs_of())


def begun(
    base: nn.Module, parts: ModelComponents, file: Path, *, given: Mapping[str, Any]
) -> tuple[nn.Module, LoraOptions]:
    """A denoiser with an adapter that begins at a file, by the options that a run takes from it."""
    pairs = read_lora(file)
    lora = options_from_file(
        LoraOptions(init_lora=str(file), **given),
        given=given.keys(),
        pairs=pairs,
        layers=sd3_family().adapter_layers(parts),
        base="the base",
        trains_text=False,
    )
    denoiser = copy.deepcopy(base)
    modules = target_modules(denoiser, lora.lora_target)
    make_lora(denoiser, modules=modules, lora=lora, seed=0, pairs=of_transformer(pairs))
    return denoiser, lora


def merged(base: nn.Module, pairs: Mapping[str, Pair]) -> nn.Module:
    found = copy.deepcopy(base)
    for name, pair in pairs.items():
        weight: Any = found.get_submodule(name).weight
        weight.data.copy_(pair.merged_into(weight.data))
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("is_dora", [False, True], ids=["LoRA", "DoRA"])
def test_every_form_is_read_as_the_same_pairs_and_begun_at(
    form: str, is_dora: bool, base: nn.Module, parts: ModelComponents, tmp_path: Path
) -> None:
    if is_dora and form in WITHOUT_DORA:
        return
    pairs = pairs_on(base, is_dora=is_dora)
    file = FORMS[form](tmp_path / "lora.safetensors", pairs)
    assert_same(read_lora(file), pairs)

    denoiser, lora = begun(base, parts, file, given={})
    assert (lora.lora_rank, lora.use_dora) == (3, is_dora)
    wanted = predicted(merged(base, pairs))
    assert (wanted - predicted(base)).abs().max() > 0.05
    torch.testing.assert_close(predicted(denoiser), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in WITHOUT_TEXT])
def test_text_encoders_are_read_from_every_form(form: str, base: nn.Module, tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(1)
    texts = {
        name: Pair(down=torch.randn(2, 24, generator=noise), up=torch.randn(24, 2, generator=noise), alpha=1.0)
        for name in (TEXT_LAYER, TEXT_LAYER.replace("encoder.", "encoder_2.", 1))
    }
    pairs = {**pairs_on(base), **texts}
    assert_same(read_lora(FORMS[form](tmp_path / "lora.safetensors", pairs)), pairs)


def test_the_file_s_settings_are_taken_unless_others_are_given(
    base: nn.Module, parts: ModelComponents, tmp_path: Path
) -> None:
    pairs = pairs_on(base, names=())
    narrow = {
        name: Pair(down=pair.down[:2], up=pair.up[:, :2], alpha=1.0) if name.endswith("to_q") else pair
        for name, pair in pairs.items()
    }
    file = onetrainer_legacy(tmp_path / "lora.safetensors", narrow)
    wanted = predicted(merged(base, narrow))
    for given, alpha in (({}, 2.0), ({"lora_alpha": 9.0}, 9.0), ({"use_rslora": True}, None), ({"lora_rank": 3}, 2.0)):
        denoiser, lora = begun(base, parts, file, given=given)
        assert (lora.lora_rank, lora.lora_target, lora.lora_alpha) == (3, "attention", alpha)
        assert lora.lora_ranks == "attn.to_q=2"
        torch.testing.assert_close(predicted(denoiser), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lora_rank": 8}, "its rank is 3 at .*, but the settings ask for 8.*leave LORA_RANK"),
        ({"lora_target": "image-attention"}, "the file has .*add_k_proj.*leave LORA_TARGET out"),
        ({"lora_target": "to_w"}, "LORA_TARGET names `to_w`"),
        ({"use_dora": True}, "it is not a DoRA, but USE_DORA=true"),
    ],
)
def test_settings_that_differ_from_the_file_are_refused(
    given: dict[str, Any], told: str, base: nn.Module, parts: ModelComponents, tmp_path: Path
) -> None:
    file = onetrainer_legacy(tmp_path / "lora.safetensors", pairs_on(base, names=()))
    with pytest.raises(ConfigError, match=rf"(?s){told}"):
        begun(base, parts, file, given=given)


def test_a_lora_for_another_sd3_is_refused(base: nn.Module, parts: ModelComponents, tmp_path: Path) -> None:
    pairs = pairs_on(base, names=())
    more = pairs | {"transformer_blocks.30.attn.to_q": next(iter(pairs.values()))}
    wide = {name: Pair(down=torch.ones(3, 64), up=torch.ones(64, 3), alpha=3) for name in pairs}
    for other, told in ((more, "no such layer"), (wide, r"\[64, 64\], and the base has \[32, 32\]")):
        with pytest.raises(ConfigError, match=rf"(?s)trained on another model.*{told}"):
            begun(base, parts, onetrainer_legacy(tmp_path / "lora.safetensors", other), given={})


def test_text_encoders_that_would_be_lost_are_told_of(base: nn.Module, parts: ModelComponents, tmp_path: Path) -> None:
    pairs = pairs_on(base) | {TEXT_LAYER: Pair(down=torch.ones(3, 24), up=torch.ones(24, 3), alpha=3)}
    with pytest.raises(ConfigError, match="set TRAIN_TEXT_ENCODER=true"):
        begun(base, parts, onetrainer_legacy(tmp_path / "lora.safetensors", pairs), given={})


@pytest.mark.parametrize(
    ("rank", "dora", "told"), [(2, None, "its rank is 2"), (3, torch.ones(24), "not a plain LoRA")]
)
def test_a_lora_on_text_encoders_that_is_not_trained_so_is_refused(
    rank: int, dora: Tensor | None, told: str, base: nn.Module, parts: ModelComponents
) -> None:
    text = Pair(down=torch.ones(rank, 24), up=torch.ones(24, rank), alpha=rank, magnitude=dora)
    layers_there = sd3_family().adapter_layers(parts)
    with pytest.raises(ConfigError, match=rf"(?s){told}.*helpers\.convert"):
        options_from_file(
            LoraOptions(init_lora="file"),
            given=(),
            pairs=pairs_on(base) | {TEXT_LAYER: text},
            layers=layers_there,
            base="the base",
            trains_text=True,
        )


def test_no_two_layers_have_one_name() -> None:
    """In any spelling: what a name means would otherwise depend on the order of a table."""
    spelled: dict[str, set[tuple[str, ...]]] = {}
    for layer in layers(count=MOST_BLOCKS):
        names = {layer.original: layer.diffusers, **{name: (name,) for name in layer.diffusers}}
        for name, meant in names.items():
            for each in (name, name.replace(".", "_")):
                spelled.setdefault(each, set()).add(meant)
    assert all(len(meant) == 1 for meant in spelled.values())


def test_a_dora_that_normalizes_inputs_can_only_be_merged(
    base: nn.Module, parts: ModelComponents, tmp_path: Path
) -> None:
    """OneTrainer's own way: W' = (W + B A) m / |W + B A|, the length of each column of the sum."""
    pairs, file = pairs_on(base, names=()), tmp_path / "lora.safetensors"
    tensors = load_file(onetrainer_legacy(file, pairs))
    lengths = {name: 0.5 + torch.rand(1, pair.shape[1]) for name, pair in pairs.items()}
    scales = {f"lora_transformer_{name.replace('.', '_')}.dora_scale": each for name, each in lengths.items()}
    save_file({name: each.clone() for name, each in tensors.items()} | scales, file)
    with opened_model(file, base=parts, family=sd3_family()) as model:
        for name, pair in pairs.items():
            total = dequantize(base.get_submodule(name)) + pair.delta()
            wanted = total * lengths[name] / total.norm(dim=0, keepdim=True)
            torch.testing.assert_close(model.weights[f"{name}.weight"].make(), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="normalizes inputs"):
        begun(base, parts, file, given={})
    for write in (to_diffusers_lora, to_comfyui_lora):
        with pytest.raises(ModelError, match="Merge it"):
            write(file, tmp_path / "out.safetensors", base=parts, family=sd3_family())


def test_kohya_s_lora_on_the_embedder_of_patches_is_converted_and_merged(
    base: nn.Module, parts: ModelComponents, tmp_path: Path, diffusers_pipeline: Any
) -> None:
    """`emb_dims`: a convolution, as is the layer that it sits on."""
    noise, start = torch.Generator().manual_seed(2), "lora_unet_x_embedder_proj"
    weight: Any = base.get_submodule("pos_embed.proj").weight
    down = 0.3 * torch.randn(2, *weight.shape[1:], generator=noise)
    up = 0.3 * torch.randn(weight.shape[0], 2, 1, 1, generator=noise)
    more = {
        f"{start}.lora_down.weight": down,
        f"{start}.lora_up.weight": up,
        f"{start}.alpha": torch.tensor(1.0),
        "lora_unet_context_embedder.lora_down.weight": torch.randn(3, 48, generator=noise),
        "lora_unet_context_embedder.lora_up.weight": torch.randn(32, 3, generator=noise),
    }
    file = tmp_path / "kohya.safetensors"
    save_file(more, file)
    wanted = weight + 0.5 * torch.einsum("orab,rihw->oihw", up, down)
    with opened_model(file, base=parts, family=sd3_family()) as model:
        torch.testing.assert_close(model.weights["pos_embed.proj.weight"].make(), wanted.detach(), atol=1e-5, rtol=1e-5)
    to_diffusers_lora(file, tmp_path / "lora.safetensors", base=None, family=sd3_family())
    to_comfyui_lora(file, tmp_path / "again.safetensors", base=None, family=sd3_family())
    assert_same(read_lora(tmp_path / "lora.safetensors"), read_lora(file))
    assert_same(read_lora(tmp_path / "again.safetensors"), read_lora(file))
    diffusers_pipeline.load_lora_weights(str(tmp_path / "lora.safetensors"))
    diffusers_pipeline.fuse_lora()
    diffusers_pipeline.unload_lora_weights()
    fused = diffusers_pipeline.transformer.state_dict()["pos_embed.proj.weight"]
    torch.testing.assert_close(fused, wanted.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"(?s)the convolution pos_embed\.proj.*merge it into the base"):
        begun(base, parts, file, given={})


OTHERS = {
    "lora_unet_double_blocks_0_img_attn_proj": "Flux",
    "transformer.single_transformer_blocks.0.attn.to_q": "Flux",
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": "Stable Diffusion 1, 2 or XL",
    "unet.down_blocks.0.attentions.0.proj_in": "Stable Diffusion 1, 2 or XL",
    "diffusion_model.blocks.0.self_attn.q": "which SD3 does not have",
    "lora_unet_blocks_0_cross_attn_q": "Wan",
    "transformer.transformer_blocks.0.img_mlp.net.2": "Qwen-Image",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q": "T5",
}


@pytest.mark.parametrize("layer", OTHERS)
def test_a_lora_for_another_model_is_told_what_it_is(layer: str, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({f"{layer}.lora_down.weight": torch.ones(2, 2), f"{layer}.lora_up.weight": torch.ones(2, 2)}, file)
    with pytest.raises(ModelError, match=rf"other\.safetensors .*{OTHERS[layer]}"):
        read_lora(file)


def test_a_header_that_names_another_model_is_believed(tmp_path: Path) -> None:
    name, file = "lora_unet_some_layer.lora_down.weight", tmp_path / "other.safetensors"
    save_file({name: torch.ones(2, 2)}, file, metadata={"modelspec.architecture": "flux-1-dev/lora"})
    with pytest.raises(ModelError, match="a LoRA for flux-1-dev,"):
        read_lora(file)
    save_file({name: torch.ones(2, 2)}, file, metadata={"modelspec.architecture": "stable-diffusion-3-m/lora"})
    with pytest.raises(ModelError, match="which SD3 does not have"):
        read_lora(file)


def test_its_own_dora_for_comfyui_is_not_taken_for_another_program_s(
    base: nn.Module, parts: ModelComponents, tmp_path: Path
) -> None:
    file = FORMS["diffusers"](tmp_path / "dora.safetensors", pairs_on(base, names=(), is_dora=True))
    to_comfyui_lora(file, tmp_path / "comfyui.safetensors", base=parts, family=sd3_family())
    with pytest.raises(ModelError, match="cannot be converted back: use the original"):
        read_lora(tmp_path / "comfyui.safetensors")
