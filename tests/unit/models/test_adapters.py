"""A LoRA sits where it was asked for, trains alone, and opens elsewhere with the strength it was trained at."""

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.errors import ModelError
from helpers.models.adapters.lora import load_initial_weights, load_lora, save_lora
from helpers.models.family import ModelComponents
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.transformer import load_denoiser, predict, target_modules
from helpers.models.sd3.weights.lora_forms import read_lora
from tests.unit.models.lora import attach, inputs_of, randomise

LORA = LoraOptions(lora_rank=4, lora_alpha=3.0)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def base(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> nn.Module:
    return load_denoiser(parts, full_precision, cpu)


@pytest.fixture
def denoiser(base: nn.Module) -> nn.Module:
    return copy.deepcopy(base)


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A transformer in the shape of SD3.5 medium's."""
    from diffusers import SD3Transformer2DModel

    folder = make_tiny_pipeline(tmp_path_factory.mktemp("sd35") / "m", dual_attention=True, qk_norm="rms_norm")
    return SD3Transformer2DModel.from_pretrained(folder / "transformer")


@pytest.fixture
def inputs() -> Inputs:
    return inputs_of()


def leaves(modules: list[str]) -> set[str]:
    return {module.split(".", 2)[2] for module in modules}


IMAGE = {"attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"}
TEXT = {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"}
SECOND = {"attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"}
MLP = {"ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("image-attention", IMAGE),
        ("attention", IMAGE | TEXT),
        ("attention+mlp", IMAGE | TEXT | MLP),
        ("to_q", {"attn.to_q"}),
        ("ff, attn.to_out", {"ff.net.0.proj", "ff.net.2", "attn.to_out.0"}),
    ],
)
def test_a_target_means_these_layers(base: nn.Module, target: str, expected: set[str]) -> None:
    assert leaves(target_modules(base, target)) == expected


def test_sd3_5_medium_s_second_attention_is_part_of_attention(medium: nn.Module) -> None:
    assert leaves(target_modules(medium, "attention")) == IMAGE | TEXT | SECOND
    assert leaves(target_modules(medium, "image-attention")) == IMAGE
    assert leaves(target_modules(medium, "attention+mlp")) == IMAGE | TEXT | SECOND | MLP


@pytest.mark.parametrize(("target", "hint"), [("to_qq", "did you mean .*to_q"), ("attn.to_p", "did you mean")])
def test_an_unknown_layer_is_refused_with_near_names(denoiser: nn.Module, target: str, hint: str) -> None:
    with pytest.raises(ModelError, match=hint):
        attach(denoiser, LoraOptions(lora_target=target), seed=0)


def test_nothing_to_train_is_an_error(denoiser: nn.Module) -> None:
    with pytest.raises(ModelError, match="no layer to train"):
        attach(denoiser, LoraOptions(lora_target=" , "), seed=0)


def test_only_the_adapter_learns_and_all_of_it(denoiser: nn.Module, inputs: Inputs) -> None:
    tensors = attach(denoiser, LoraOptions(lora_rank=4, lora_target="attention+mlp"), seed=0)
    trainable = {id(parameter) for parameter in denoiser.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in tensors.values()}
    randomise(tensors)
    predict(denoiser, *inputs).square().mean().backward()
    for name, parameter in tensors.items():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_new_adapter_changes_nothing_yet(base: nn.Module, denoiser: nn.Module, inputs: Inputs) -> None:
    attach(denoiser, LORA, seed=0)
    with torch.no_grad():
        assert torch.equal(predict(denoiser, *inputs), predict(base, *inputs))


def test_names_are_those_of_the_exported_file(denoiser: nn.Module) -> None:
    names = attach(denoiser, LoraOptions(lora_rank=4, lora_target="transformer_blocks.0.attn.to_q"), seed=0)
    assert list(names) == [
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight",
    ]


def test_the_start_depends_on_the_seed_alone(parts: ModelComponents, base: nn.Module, cpu: torch.device) -> None:
    def start(denoiser: nn.Module, seed: int) -> Mapping[str, Tensor]:
        torch.manual_seed(seed + 100)
        before = torch.get_rng_state()
        tensors = attach(denoiser, LORA, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return tensors

    quantized = PrecisionOptions(mixed_precision="bf16", base_model_precision="int8-quanto")
    over_fp32 = start(copy.deepcopy(base), 1)
    over_int8 = start(load_denoiser(parts, quantized, cpu), 1)
    another = start(copy.deepcopy(base), 2)
    for name, tensor in over_fp32.items():
        assert tensor.dtype == over_int8[name].dtype == torch.float32
        assert torch.equal(tensor, over_int8[name])
        assert torch.equal(tensor, another[name]) == name.endswith("lora_B.weight")


def test_dropout_acts_in_training_only(denoiser: nn.Module, inputs: Inputs) -> None:
    randomise(attach(denoiser, LoraOptions(lora_rank=4, lora_dropout=0.5), seed=0))
    with torch.no_grad():
        denoiser.eval()
        assert torch.equal(predict(denoiser, *inputs), predict(denoiser, *inputs))
        denoiser.train()
        torch.manual_seed(0)
        first = predict(denoiser, *inputs)
        assert not torch.equal(first, predict(denoiser, *inputs))
        torch.manual_seed(0)
        assert torch.equal(first, predict(denoiser, *inputs))


@pytest.mark.parametrize("portable", [False, True])
def test_plain_diffusers_applies_the_file_as_it_was_trained(
    denoiser: nn.Module, inputs: Inputs, diffusers_pipeline: Any, tmp_path: Path, portable: bool
) -> None:
    tensors = attach(denoiser, LORA, seed=0)
    randomise(tensors)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_lora(file, tensors, lora=LORA, metadata={"made_by": "test"}, portable=portable)
    noisy, sigmas, text, pooled = inputs
    with torch.no_grad():
        ours = predict(denoiser, *inputs)
        plain = predict(diffusers_pipeline.transformer, *inputs)
        diffusers_pipeline.load_lora_weights(tmp_path)
        theirs = diffusers_pipeline.transformer(
            hidden_states=noisy, timestep=1000 * sigmas, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
    assert (ours - plain).abs().max() > 0.1
    if portable:
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(theirs, ours)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata()["made_by"] == "test"


def test_a_portable_file_needs_no_alpha_to_be_right(denoiser: nn.Module, inputs: Inputs, tmp_path: Path) -> None:
    """As ComfyUI reads it: W + B A by the file's names, alpha taken for the rank."""
    tensors = attach(denoiser, LORA, seed=0)
    randomise(tensors)
    save_lora(tmp_path / "lora.safetensors", tensors, lora=LORA, metadata={}, portable=True)
    saved = load_file(tmp_path / "lora.safetensors")
    with torch.no_grad():
        ours = predict(denoiser, *inputs)
        merged = {name: tensor for name, tensor in denoiser.state_dict().items() if ".lora_" not in name}
        for name in [name for name in saved if name.endswith(".lora_A.weight")]:
            module = name.removesuffix(".lora_A.weight")
            target = module.removeprefix("transformer.") + ".base_layer.weight"
            merged[target] = merged[target] + saved[module + ".lora_B.weight"] @ saved[name]
        for tensor in tensors.values():
            tensor.zero_()
        denoiser.load_state_dict(merged, strict=False)
        torch.testing.assert_close(predict(denoiser, *inputs), ours, atol=1e-4, rtol=1e-4)


def test_several_ranks_become_one_in_the_finished_file(
    denoiser: nn.Module, inputs: Inputs, diffusers_pipeline: Any, tmp_path: Path
) -> None:
    """Diffusers before 0.34 takes the most common rank as every layer's alpha; what is added stays the same exactly."""
    lora = replace(LORA, lora_ranks="to_q=6,transformer_blocks.0=2")
    tensors = attach(denoiser, lora, seed=0)
    randomise(tensors)
    apart, one = tmp_path / "apart.safetensors", tmp_path / "one.safetensors"
    save_lora(apart, tensors, lora=lora, metadata={})
    save_lora(one, tensors, lora=lora, metadata={}, portable=True)
    assert {len(tensor) for name, tensor in load_file(one).items() if ".lora_A." in name} == {6}
    with safe_open(one, framework="pt") as opened:
        said = json.loads(opened.metadata()["lora_adapter_metadata"])
    assert (said["transformer.r"], said["transformer.lora_alpha"]) == (6, 6)
    assert said["transformer.rank_pattern"] == said["transformer.alpha_pattern"] == {}
    before, after = read_lora(apart), read_lora(one)
    assert {pair.rank for pair in after.values()} == {2, 4, 6}
    assert {name: pair.shape for name, pair in before.items()} == {name: pair.shape for name, pair in after.items()}
    assert all(torch.equal(after[name].down, pair.down) for name, pair in before.items())
    diffusers_pipeline.load_lora_weights(tmp_path, weight_name=one.name)
    with torch.no_grad():
        theirs = predict(diffusers_pipeline.transformer, *inputs)
        torch.testing.assert_close(theirs, predict(denoiser, *inputs), atol=1e-5, rtol=1e-5)


def test_a_run_with_the_same_ranks_begins_from_a_file_of_one_rank(
    base: nn.Module, denoiser: nn.Module, inputs: Inputs, tmp_path: Path
) -> None:
    lora = replace(LORA, lora_ranks="to_q=6,transformer_blocks.0=2")
    tensors = attach(denoiser, lora, seed=0)
    randomise(tensors)
    save_lora(tmp_path / "one.safetensors", tensors, lora=lora, metadata={}, portable=True)
    other = copy.deepcopy(base)
    load_initial_weights(
        tmp_path / "one.safetensors",
        read_lora(tmp_path / "one.safetensors"),
        weights=attach(other, lora, seed=1),
        lora=lora,
    )
    with torch.no_grad():
        torch.testing.assert_close(predict(other, *inputs), predict(denoiser, *inputs), atol=1e-5, rtol=1e-5)


def test_a_saved_adapter_comes_back_bit_for_bit(base: nn.Module, denoiser: nn.Module, tmp_path: Path) -> None:
    tensors = attach(denoiser, LORA, seed=0)
    randomise(tensors)
    save_lora(tmp_path / "lora.safetensors", tensors, lora=LORA, metadata={})
    other = attach(copy.deepcopy(base), LORA, seed=1)
    load_lora(tmp_path / "lora.safetensors", into=other)
    assert all(torch.equal(other[name], tensor) for name, tensor in tensors.items())
    assert all(parameter.requires_grad for parameter in other.values())


def test_a_file_of_another_adapter_is_refused(base: nn.Module, denoiser: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "lora.safetensors"
    save_lora(file, attach(denoiser, LORA, seed=0), lora=LORA, metadata={})
    with pytest.raises(ModelError, match="set lora_rank"):
        load_lora(file, into=attach(copy.deepcopy(base), LoraOptions(lora_rank=8), seed=0))
    with pytest.raises(ModelError, match="Set lora_target"):
        load_lora(file, into=attach(copy.deepcopy(base), LoraOptions(lora_rank=4, lora_target="to_q"), seed=0))
    file.write_bytes(b"not one")
    with pytest.raises(ModelError, match="cannot be read as an adapter"):
        load_lora(file, into={})
