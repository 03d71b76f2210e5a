"""The original names are those that diffusers' own converter and loader read, bit for bit, for every kind of SD3."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor, lazy
from helpers.models.sd3.weights.original.keys import PREFIX, to_diffusers, to_original

KINDS: dict[str, dict[str, Any]] = {
    "SD3 medium": {},
    "SD3.5 medium": {"dual_attention_layers": (0, 1), "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}


def random_transformer(**kind: Any) -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=8,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=20,
        pos_embed_max_size=12,
        **kind,
    )
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
    return model


def made(tensors: dict[str, LazyTensor]) -> dict[str, Tensor]:
    found = {name: each.make() for name, each in tensors.items()}
    assert {name: (tuple(each.shape), each.dtype) for name, each in found.items()} == {
        name: (each.shape, each.dtype) for name, each in tensors.items()
    }
    return found


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_converts_it_back_to_the_same_numbers(kind: str) -> None:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    tensors = random_transformer(**KINDS[kind]).state_dict()
    original = made(to_original(lazy(tensors)))
    assert_same(convert_sd3_transformer_checkpoint_to_diffusers(dict(original)), tensors)
    assert_same(made(to_diffusers(lazy(original))), tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_it_as_a_single_file(kind: str, tmp_path: Path) -> None:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    model = random_transformer(**KINDS[kind])
    model.save_config(tmp_path / "transformer")
    original = made(to_original(lazy(model.state_dict())))
    save_file({PREFIX + name: each.contiguous() for name, each in original.items()}, tmp_path / "sd3.safetensors")
    assert len(load_file(tmp_path / "sd3.safetensors")) == len(original)
    found: Any = SD3Transformer2DModel.from_single_file(
        str(tmp_path / "sd3.safetensors"), config=str(tmp_path), subfolder="transformer", local_files_only=True
    )
    assert_same(found.state_dict(), model.state_dict())


def test_what_is_no_sd3_is_refused() -> None:
    tensors = lazy(random_transformer().state_dict())
    with pytest.raises(ModelError, match=r"has a tensor single_blocks\.0\.weight"):
        to_original({**tensors, "single_blocks.0.weight": tensors["proj_out.weight"]})
    del tensors["transformer_blocks.1.attn.to_k.weight"]
    with pytest.raises(ModelError, match=r"lacks the tensor transformer_blocks\.1\.attn\.to_k\.weight"):
        to_original(tensors)
