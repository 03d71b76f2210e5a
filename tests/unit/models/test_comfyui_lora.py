"""A LoRA in ComfyUI's names adds to the original weights what the trainer's adds to diffusers'."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions
from helpers.errors import ModelError
from helpers.models.adapters.lora import save_lora
from helpers.models.conversions import add_comfyui_scales
from helpers.models.formats.lora import Pair, merged, write_diffusers_lora
from helpers.models.formats.safetensors import lazy
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.transformer import load_denoiser, predict
from helpers.models.sd3.weights.comfyui_lora import write_comfyui_lora
from helpers.models.sd3.weights.components import locate
from helpers.models.sd3.weights.lora_forms import read_lora
from helpers.models.sd3.weights.original.keys import count_of, layers, to_original, with_halves_swapped
from tests.unit.models.lora import KINDS, attach

LORAS: Mapping[str, dict[str, Any]] = {
    "attention": {},
    "two of three": {"lora_target": "to_q,to_v,to_out", "use_rslora": True},
    "every layer": {"lora_target": "*"},
    "several ranks": {"lora_target": "attention", "lora_ranks": "to_q=6,transformer_blocks.0=2"},
    "DoRA": {"lora_target": "to_q,to_v,norm1_context.linear,norm_out.linear", "use_dora": True},
}


@pytest.fixture(scope="module", params=KINDS)
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_pipeline(tmp_path_factory.mktemp("base") / "pipeline", **KINDS[request.param])


@pytest.fixture
def base(pipeline: Path) -> nn.Module:
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(pipeline)))
    return load_denoiser(parts, PrecisionOptions(mixed_precision="no"), torch.device("cpu"))


def trained_file(denoiser: nn.Module, file: Path, **options: Any) -> Path:
    """As a run exports it, of rank 4 and alpha 6."""
    lora = LoraOptions(lora_rank=4, lora_alpha=6.0, **options)
    tensors = attach(denoiser, lora, seed=0)
    for number, tensor in enumerate(tensors.values()):
        drawn = 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
        tensor.data.copy_(drawn if tensor.dim() > 1 else tensor * (1 + drawn))
    save_lora(file, tensors, lora=lora, metadata={}, portable=True)
    return file


def prediction(denoiser: nn.Module) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    noisy, text, pooled = (torch.randn(shape, generator=draw) for shape in ((1, 16, 8, 8), (1, 90, 48), (1, 40)))
    with torch.no_grad():
        return predict(denoiser, noisy, torch.tensor([0.7]), text, pooled)


def merged_by_original_names(weights: dict[str, Tensor], lora: Path) -> dict[str, Tensor]:
    """W + up down alpha / rank, by nothing but the names and formula that ComfyUI and kohya's programs have."""
    adapter, found = load_file(lora), dict(weights)
    by_flat_name = {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}": name for name in weights}
    for key in [key for key in adapter if key.endswith(".lora_up.weight")]:
        flat = key.removesuffix(".lora_up.weight")
        up, down, alpha = (adapter.pop(flat + end) for end in (".lora_up.weight", ".lora_down.weight", ".alpha"))
        before = weights[by_flat_name[flat]]
        after = before + up @ down * (alpha / down.shape[0])
        if (scale := adapter.pop(f"{flat}.dora_scale", None)) is not None:
            after *= scale / before.norm(dim=1, keepdim=True)
        found[by_flat_name[flat]] = after
    assert not adapter
    return found


@pytest.mark.parametrize("lora", LORAS)
def test_the_original_weights_with_it_are_the_trainer_s_model(lora: str, base: nn.Module, tmp_path: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    before = prediction(base)
    pairs = read_lora(trained_file(base, tmp_path / "ours.safetensors", **LORAS[lora]))
    ours = prediction(base)
    write_comfyui_lora(tmp_path / "comfyui.safetensors", pairs, base=lazy(weights), metadata={})
    original = {name: each.make() for name, each in to_original(lazy(weights)).items()}
    total = merged_by_original_names(original, tmp_path / "comfyui.safetensors")
    plain: Any = type(base)(**{k: v for k, v in base.config.items() if not k.startswith("_")})  # type: ignore[attr-defined,union-attr]
    plain.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(total))
    assert (ours - before).abs().max() > 0.01
    torch.testing.assert_close(prediction(plain.eval()), ours, atol=1e-4, rtol=1e-4)

    plain.load_state_dict({name: each.make() for name, each in merged(lazy(weights), pairs).items()})
    torch.testing.assert_close(prediction(plain), ours, atol=1e-4, rtol=1e-4)


def merged_by_diffusers_names(weights: dict[str, Tensor], lora: Path) -> dict[str, Tensor]:
    """What ComfyUI makes of the original weights with a file in diffusers' names.

    It finds the rows of queries, keys and values, and swaps the halves of what is added, but not those of the scale.
    """
    adapter, found = load_file(lora), {name: tensor.clone() for name, tensor in weights.items()}
    for layer in layers(count=count_of(weights)):
        for place, name in enumerate(layer.diffusers):
            if f"transformer.{name}.lora_B.weight" not in adapter:
                continue
            up, down = (adapter.pop(f"transformer.{name}.lora_{part}.weight") for part in "BA")
            rows = found[f"{layer.original}.weight"][place * len(up) : (place + 1) * len(up)]
            added = with_halves_swapped(up @ down) if layer.swapped else up @ down
            scale = adapter.pop(f"transformer.{name}.dora_scale", None)
            factor = 1 if scale is None else scale / rows.norm(dim=1, keepdim=True)
            rows.copy_((rows + added) * factor)
    assert {name.rpartition(".")[2] for name in adapter} <= {"lora_magnitude_vector"}
    return found


@pytest.mark.parametrize("lora", LORAS)
def test_comfyui_reads_all_of_a_file_in_diffusers_names(
    lora: str, pipeline: Path, base: nn.Module, tmp_path: Path
) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    file = trained_file(base, tmp_path / "ours.safetensors", **LORAS[lora])
    before = {name: pair.delta() for name, pair in read_lora(file).items()}
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(pipeline)))
    add_comfyui_scales(file, base=parts, family=sd3_family())
    assert any(name.endswith(".dora_scale") for name in load_file(file)) is (lora == "DoRA")
    assert all(torch.equal(pair.delta(), before[name]) for name, pair in read_lora(file).items())
    original = {name: each.make() for name, each in to_original(lazy(weights)).items()}
    plain: Any = type(base)(**{k: v for k, v in base.config.items() if not k.startswith("_")})  # type: ignore[attr-defined,union-attr]
    total = merged_by_diffusers_names(original, file)
    plain.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(total))
    torch.testing.assert_close(prediction(plain.eval()), prediction(base), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lora", [name for name in LORAS if name != "DoRA"])
def test_back_again_it_is_the_same_file(lora: str, base: nn.Module, tmp_path: Path) -> None:
    ours = trained_file(base, tmp_path / "ours.safetensors", **LORAS[lora])
    write_comfyui_lora(tmp_path / "comfyui.safetensors", read_lora(ours), base={}, metadata={})
    write_diffusers_lora(tmp_path / "back.safetensors", read_lora(tmp_path / "comfyui.safetensors"), metadata={})
    first, second = load_file(ours), load_file(tmp_path / "back.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_made_by_others_opens_in_diffusers(pipeline: Path, tmp_path: Path) -> None:
    """Kohya's queries, keys and values share their downward half, and layers may have ranks of their own."""
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for name, rank, rows in (("x_block_attn_qkv", 4, 96), ("context_block_attn_proj", 2, 32)):
        flat = f"lora_unet_joint_blocks_1_{name}"
        tensors[f"{flat}.lora_down.weight"] = torch.randn(rank, 32, generator=draw)
        tensors[f"{flat}.lora_up.weight"] = torch.randn(rows, rank, generator=draw)
        tensors[f"{flat}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "kohya.safetensors")
    pairs = read_lora(tmp_path / "kohya.safetensors")
    write_diffusers_lora(tmp_path / "lora.safetensors", pairs, metadata={})
    opened = StableDiffusion3Pipeline.from_pretrained(pipeline)
    before = {name: each.clone() for name, each in opened.transformer.state_dict().items()}
    opened.load_lora_weights(str(tmp_path / "lora.safetensors"))
    opened.fuse_lora()
    opened.unload_lora_weights()
    after = opened.transformer.state_dict()
    deltas = {name: pair.delta() for name, pair in pairs.items()}
    assert len(deltas) == 4
    assert {f"{name}.weight" for name in deltas} == {
        name for name in after if not torch.equal(after[name], before[name])
    }
    for name, delta in deltas.items():
        torch.testing.assert_close(after[f"{name}.weight"] - before[f"{name}.weight"], delta, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_converted_is_refused_and_not_left_out(tmp_path: Path) -> None:
    layer = "transformer_blocks.0.attn.to_q"
    pair = {layer: Pair(down=torch.ones(2, 32), up=torch.ones(32, 2), alpha=2)}
    write_comfyui_lora(tmp_path / "plain.safetensors", pair, base={}, metadata={})
    tensors = load_file(tmp_path / "plain.safetensors")
    save_file({**tensors, "lora_te1_text_model.dora_scale": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelError, match="lora_te1_text_model"):
        read_lora(tmp_path / "more.safetensors")
    dora = {layer: replace(pair[layer], magnitude=torch.ones(32))}
    with pytest.raises(ModelError, match="depends on the base: name the base"):
        write_comfyui_lora(tmp_path / "dora.safetensors", dora, base={}, metadata={})
    with pytest.raises(ModelError, match="Name the base model"):
        merged(lazy({f"{layer}.weight": torch.ones(64, 64)}), pair)
