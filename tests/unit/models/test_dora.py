"""DoRA and rank-stabilised LoRA are what their papers and plain diffusers say, on bases of every precision."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.models.adapters.lora import load_lora, lora_disabled, save_lora
from helpers.models.family import ModelComponents
from helpers.models.quantization import dequantize
from helpers.models.sd3.transformer import load_denoiser, predict
from helpers.models.sd3.weights.lora_forms import read_lora
from tests.unit.models.lora import attach, inputs_of, randomise

DORA = LoraOptions(lora_rank=4, lora_alpha=3.0, use_dora=True)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def base(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> nn.Module:
    return load_denoiser(parts, full_precision, cpu)


@pytest.fixture
def denoiser(base: nn.Module) -> nn.Module:
    return copy.deepcopy(base)


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return inputs_of()


def of_diffusers(pipeline: Any, inputs: Inputs) -> Tensor:
    noisy, sigmas, text, pooled = inputs
    with torch.no_grad():
        return pipeline.transformer(
            hidden_states=noisy, timestep=1000 * sigmas, encoder_hidden_states=text, pooled_projections=pooled
        ).sample


@pytest.mark.parametrize("level", ["no_change", "int8-quanto", "fp8-quanto"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_lengths_are_learnt_on_a_base_of_every_precision(
    level: str, dropout: float, parts: ModelComponents, cpu: torch.device, inputs: Inputs
) -> None:
    precision = PrecisionOptions(mixed_precision="bf16", base_model_precision=level)
    denoiser = load_denoiser(parts, precision, cpu)
    lora = LoraOptions(lora_rank=4, lora_dropout=dropout, use_dora=True, lora_target="to_q")

    def predicted() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return predict(denoiser, *inputs).float()

    with torch.no_grad():
        plain = predicted()
    tensors = attach(denoiser, lora, seed=0)
    rows = {name: tensor for name, tensor in tensors.items() if name.endswith("attn.to_q.lora_magnitude_vector")}
    assert len(rows) == 3 and len(tensors) == 9
    layer: Any = denoiser.get_submodule("transformer_blocks.0.attn.to_q")
    lengths = dequantize(layer.base_layer).norm(dim=1)
    torch.testing.assert_close(rows["transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector"].data, lengths)
    with torch.no_grad():
        torch.testing.assert_close(predicted(), plain, atol=0.05, rtol=0.05)
    randomise(tensors)
    denoiser.train()
    predicted().square().mean().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in tensors.values())
    with lora_disabled(denoiser), torch.no_grad():
        assert torch.equal(predicted(), plain)


def test_a_row_has_the_learnt_length_and_the_sum_s_direction(denoiser: nn.Module) -> None:
    """m (W + s B A) / |W + s B A|, row by row (Liu et al. 2024, equation 5)."""
    tensors = attach(denoiser, DORA, seed=0)
    randomise(tensors)
    layer: Any = denoiser.get_submodule("transformer_blocks.0.attn.to_q")
    name = "transformer.transformer_blocks.0.attn.to_q.lora_"
    with torch.no_grad():
        moved = layer.base_layer.weight + 0.75 * tensors[f"{name}B.weight"] @ tensors[f"{name}A.weight"]
        wanted = tensors[f"{name}magnitude_vector"][:, None] * moved / moved.norm(dim=1, keepdim=True)
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(layer(x), x @ wanted.T + layer.base_layer.bias)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize(
    "lora",
    [
        DORA,
        LoraOptions(lora_rank=4, lora_alpha=3.0, use_rslora=True),
        LoraOptions(lora_rank=4, use_rslora=True, use_dora=True),
    ],
    ids=lambda lora: lora.adapter_name,
)
def test_plain_diffusers_applies_each_kind_as_it_was_trained(
    lora: LoraOptions, portable: bool, denoiser: nn.Module, inputs: Inputs, diffusers_pipeline: Any, tmp_path: Path
) -> None:
    tensors = attach(denoiser, lora, seed=0)
    randomise(tensors)
    save_lora(tmp_path / "pytorch_lora_weights.safetensors", tensors, lora=lora, metadata={}, portable=portable)
    with torch.no_grad():
        ours = predict(denoiser, *inputs)
    plain = of_diffusers(diffusers_pipeline, inputs)
    diffusers_pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(of_diffusers(diffusers_pipeline, inputs), ours, atol=2e-5, rtol=2e-5)
    assert (ours - plain).abs().max() > 0.1


def test_rank_stabilised_is_alpha_over_the_root_of_the_rank(denoiser: nn.Module, tmp_path: Path) -> None:
    lora = LoraOptions(lora_rank=4, lora_alpha=3.0, use_rslora=True, lora_target="to_q")
    tensors = attach(denoiser, lora, seed=0)
    randomise(tensors)
    deltas = []
    for portable in (False, True):
        file = tmp_path / f"{portable}.safetensors"
        save_lora(file, tensors, lora=lora, metadata={}, portable=portable)
        deltas.append(read_lora(file)["transformer_blocks.0.attn.to_q"].delta())
        with safe_open(file, framework="pt") as opened:
            said = json.loads(opened.metadata()["lora_adapter_metadata"])
        assert said["transformer.use_rslora"] is not portable
    name = "transformer.transformer_blocks.0.attn.to_q.lora_"
    wanted = 3 / math.sqrt(4) * tensors[f"{name}B.weight"].data @ tensors[f"{name}A.weight"].data
    assert all(torch.allclose(delta, wanted, atol=1e-6) for delta in deltas)


def test_a_saved_dora_comes_back_bit_for_bit(base: nn.Module, denoiser: nn.Module, tmp_path: Path) -> None:
    tensors = attach(denoiser, DORA, seed=0)
    randomise(tensors)
    save_lora(tmp_path / "lora.safetensors", tensors, lora=DORA, metadata={})
    other = attach(copy.deepcopy(base), DORA, seed=1)
    load_lora(tmp_path / "lora.safetensors", into=other)
    assert all(torch.equal(other[name], tensor) for name, tensor in tensors.items())
