"""What a LyCORIS adds is read from its file as the library itself would merge it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.conversions import opened_model, to_comfyui_lora
from helpers.models.family import ModelComponents
from helpers.models.formats.safetensors import lazy
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.weights.original.keys import to_diffusers, to_original
from tests.unit.models.lora import KINDS as VARIANTS

LAYER = "transformer_blocks.1.attn.to_k"
WEIGHTS = "diffusion_pytorch_model.safetensors"
KINDS: dict[str, dict[str, Any]] = {
    "lokr": {"factor": 4},
    "lokr of whole matrices": {"factor": 4, "full_matrix": True},
    "loha": {},
    "lora": {},
    "full": {},
}


def library_s(kind: str, layer: torch.nn.Linear) -> dict[str, Tensor]:
    """The tensors by their names in a file of an adapter that now computes in the layer's place."""
    from lycoris.modules.full import FullModule
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    types: Any = {"lokr": LokrModule, "loha": LohaModule, "lora": LoConModule, "full": FullModule}
    torch.manual_seed(0)
    name, more = f"lycoris_{LAYER.replace('.', '_')}", {"bypass_mode": None if kind == "full" else True}
    module = types[kind.split()[0]](name, layer, 1, lora_dim=4, alpha=2, **more, **KINDS[kind])
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.3
    module.apply_to()
    return {f"{name}.{part}": tensor.detach().clone().contiguous() for part, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_merged_as_the_library_merges_it(kind: str, parts: ModelComponents, tmp_path: Path) -> None:
    base = load_file(parts.transformer / WEIGHTS)
    layer = torch.nn.Linear(32, 32)
    layer.weight.data, layer.bias.data = base[f"{LAYER}.weight"].clone(), base[f"{LAYER}.bias"].clone()
    tensors = library_s(kind, layer)
    save_file(tensors, tmp_path / "lycoris.safetensors")
    with opened_model(tmp_path / "lycoris.safetensors", base=parts, family=sd3_family()) as model:
        found = {name: each.make() for name, each in model.weights.items()}
    inputs = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    theirs = layer(inputs)
    ours = inputs @ found[f"{LAYER}.weight"].T + found[f"{LAYER}.bias"]
    assert (theirs - inputs @ base[f"{LAYER}.weight"].T).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    to_comfyui_lora(tmp_path / "lycoris.safetensors", tmp_path / "comfyui.safetensors", base=parts, family=sd3_family())
    comfyui = load_file(tmp_path / "comfyui.safetensors")
    if kind == "full":
        flat = "lora_unet_joint_blocks_1_x_block_attn_qkv"
        assert comfyui.keys() == {f"{flat}.diff", f"{flat}.diff_b"}
    else:
        assert comfyui.keys() == tensors.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_comfyui_adds_full_differences_to_the_original_weights(variant: str, tmp_path: Path) -> None:
    """Every layer of the model, but for one of queries, keys and values, which has no difference."""
    base = make_tiny_pipeline(tmp_path / "pipeline", **VARIANTS[variant])
    weights = load_file(base / "transformer" / WEIGHTS)
    generator = torch.Generator().manual_seed(0)
    without = f"{LAYER}."
    differences = {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
        if name.endswith((".weight", ".bias")) and "norm_" not in name.replace("norm_out", "") and without not in name
    }
    saved = {}
    for name, each in differences.items():
        layer, _, kind = name.rpartition(".")
        saved[f"lycoris_{layer.replace('.', '_')}.{'diff' if kind == 'weight' else 'diff_b'}"] = each
    save_file(saved, tmp_path / "lycoris.safetensors")
    to_comfyui_lora(tmp_path / "lycoris.safetensors", tmp_path / "comfyui.safetensors", base=None, family=sd3_family())
    comfyui = load_file(tmp_path / "comfyui.safetensors")

    original = {name: each.make().clone() for name, each in to_original(lazy(weights)).items()}
    for name, tensor in original.items():
        layer, _, kind = name.rpartition(".")
        added = comfyui.pop(f"lora_unet_{layer.replace('.', '_')}.{'diff' if kind == 'weight' else 'diff_b'}", None)
        if added is not None:
            tensor.add_(added)
    assert not comfyui
    expected = {name: tensor + differences.get(name, 0) for name, tensor in weights.items()}
    found = {name: each.make() for name, each in to_diffusers(lazy(original)).items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_is_not_known_is_refused(parts: ModelComponents, tmp_path: Path) -> None:
    name = f"lycoris_{LAYER.replace('.', '_')}"
    for key, told in ((f"{name}.oft_blocks", "cannot be merged"), ("lycoris_nowhere.diff", "does not have")):
        save_file({key: torch.ones(2, 2)}, tmp_path / "lycoris.safetensors")
        with (
            pytest.raises(ModelError, match=told),
            opened_model(tmp_path / "lycoris.safetensors", base=parts, family=sd3_family()),
        ):
            pass
