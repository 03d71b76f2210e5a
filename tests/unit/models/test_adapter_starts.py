"""A LoRA that begins at a part of the base, or at another file, changes nothing yet and opens on the base as it is."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.errors import ModelError
from helpers.models.adapters.lora import make_lora
from helpers.models.adapters.trainable import Trainable
from helpers.models.family import ModelComponents
from helpers.models.formats.lora import Pair
from helpers.models.quantization import dequantize
from helpers.models.sd3.transformer import load_denoiser, predict, target_modules
from helpers.models.sd3.weights.comfyui_lora import write_comfyui_lora
from helpers.models.sd3.weights.lora_forms import read_lora
from helpers.models.sd3.weights.original.single_file import open_base
from tests.unit.models.lora import inputs_of, randomise


@pytest.fixture(scope="module")
def base(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> nn.Module:
    return load_denoiser(parts, full_precision, cpu)


def train(denoiser: nn.Module, *, seed: int = 0, **options: Any) -> Trainable:
    lora = LoraOptions(lora_rank=4, **options)
    pairs = read_lora(lora.init_file) if lora.init_file else None
    return make_lora(denoiser, modules=target_modules(denoiser, "attention"), lora=lora, seed=seed, pairs=pairs)


def predicted(denoiser: nn.Module) -> Tensor:
    with torch.no_grad():
        return predict(denoiser, *inputs_of())


@pytest.mark.parametrize(
    ("kind", "options"), [("pissa", {"lora_alpha": 3.0}), ("olora", {}), ("pissa", {"use_rslora": True})]
)
def test_a_part_of_the_base_is_learnt_on_and_opens_on_the_whole_base(
    kind: str, options: dict[str, Any], base: nn.Module, diffusers_pipeline: Any, tmp_path: Path
) -> None:
    denoiser, plain = copy.deepcopy(base), predicted(base)
    trained = train(denoiser, lora_init_type=kind, **options)
    torch.testing.assert_close(predicted(denoiser), plain, atol=1e-5, rtol=1e-5)
    moving = {id(each) for each in denoiser.parameters() if each.requires_grad}
    assert moving == {id(weight) for weight in trained.weights.values()}
    name = "transformer.transformer_blocks.0.attn.to_q.lora_"
    weight: Any = base.get_submodule("transformer_blocks.0.attn.to_q").weight
    up, down = trained.weights[f"{name}B.weight"].detach(), trained.weights[f"{name}A.weight"].detach()
    if kind == "pissa":
        strength = LoraOptions(lora_rank=4, **options).scaling
        u, s, v = torch.linalg.svd(weight.detach())
        torch.testing.assert_close(strength * up @ down, u[:, :4] * s[:4] @ v[:4], atol=2e-3, rtol=2e-3)
    else:
        torch.testing.assert_close(up.T @ up, torch.eye(4), atol=1e-5, rtol=1e-5)

    predict(denoiser, *inputs_of()).square().mean().backward()
    assert all(each.grad is not None for each in trained.weights.values())
    with torch.no_grad():
        for each in trained.weights.values():
            each.add_(0.05 * torch.randn(each.shape, generator=torch.Generator().manual_seed(1)))
    ours = predicted(denoiser)
    assert (ours - plain).abs().max() > 0.05
    with trained.as_base(denoiser):
        assert torch.equal(predicted(denoiser), plain)
    trained.save(tmp_path, metadata={})
    again = copy.deepcopy(base)
    train(again, lora_init_type=kind, seed=5, **options).load(tmp_path)
    assert torch.equal(predicted(again), ours)

    (tmp_path / "out").mkdir()
    trained.export(tmp_path / "out" / "pytorch_lora_weights.safetensors", metadata={})
    diffusers_pipeline.load_lora_weights(tmp_path / "out")
    noisy, sigmas, text, pooled = inputs_of()
    with torch.no_grad():
        theirs = diffusers_pipeline.transformer(
            hidden_states=noisy, timestep=1000 * sigmas, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


def test_a_part_of_a_quantized_base_is_learnt_on(parts: ModelComponents, cpu: torch.device) -> None:
    precision = PrecisionOptions(mixed_precision="no", base_model_precision="int8-quanto")
    denoiser = load_denoiser(parts, precision, cpu)
    plain = predicted(denoiser)
    trained = train(denoiser, lora_init_type="pissa")
    torch.testing.assert_close(predicted(denoiser), plain, atol=0.05, rtol=0.05)
    with trained.as_base(denoiser):
        assert torch.equal(predicted(denoiser), plain)


@pytest.mark.parametrize("level", ["int4-quanto", "int2-quanto"])
def test_what_quantizing_took_is_given_back_and_is_no_part_of_the_finished_file(
    level: str, base: nn.Module, parts: ModelComponents, cpu: torch.device, diffusers_pipeline: Any, tmp_path: Path
) -> None:
    precision = PrecisionOptions(mixed_precision="no", base_model_precision=level, base_model_default_dtype="fp32")
    lora = LoraOptions(lora_rank=8, lora_alpha=4.0, lora_init_type="loftq", lora_ranks="to_q=4")

    def loaded(seed: int) -> tuple[nn.Module, Trainable]:
        rough = load_denoiser(parts, precision, cpu)
        modules = target_modules(rough, "attention+mlp")
        return rough, make_lora(rough, modules=modules, lora=lora, seed=seed, base=partial(open_base, parts))

    rough, trained = loaded(0)
    whole, begun = predicted(base), predicted(rough)
    with trained.as_base(rough):
        plain = predicted(rough)
    assert (begun - whole).norm() < 0.9 * (plain - whole).norm()

    trained.export(tmp_path / "pytorch_lora_weights.safetensors", metadata={})
    diffusers_pipeline.load_lora_weights(tmp_path)
    noisy, sigmas, text, pooled = inputs_of()
    with torch.no_grad():
        theirs = diffusers_pipeline.transformer(
            hidden_states=noisy, timestep=1000 * sigmas, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
    torch.testing.assert_close(theirs, whole, atol=1e-5, rtol=1e-5)

    predict(rough, *inputs_of()).square().mean().backward()
    assert all(each.grad is not None and each.grad.any() for each in trained.weights.values())
    randomise(trained.weights)
    trained.save(tmp_path, metadata={})
    again, other = loaded(5)
    other.load(tmp_path)
    assert torch.equal(predicted(again), predicted(rough))


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_a_rank_may_be_larger_than_the_layer(kind: str, base: nn.Module) -> None:
    denoiser = copy.deepcopy(base)
    trained = train(denoiser, lora_init_type=kind, lora_ranks="to_q=80")
    assert max(len(weight) for name, weight in trained.weights.items() if "lora_A" in name) == 80
    torch.testing.assert_close(predicted(denoiser), predicted(base), atol=1e-5, rtol=1e-5)


def test_gaussian_draws_by_the_rank(base: nn.Module) -> None:
    weights = train(copy.deepcopy(base), lora_init_type="gaussian").weights
    drawn = torch.cat([weight.flatten() for name, weight in weights.items() if "lora_A" in name])
    assert 0.22 < drawn.std() < 0.28
    assert not any(weight.any() for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.parametrize("options", [{}, {"lora_alpha": 2.0}, {"use_rslora": True}, {"use_dora": True}])
def test_a_run_begins_where_another_s_file_ended(options: dict[str, Any], base: nn.Module, tmp_path: Path) -> None:
    kind = {"use_dora": True} if "use_dora" in options else {}
    first = copy.deepcopy(base)
    trained = train(first, **kind)
    randomise(trained.weights)
    file = tmp_path / "first.safetensors"
    trained.export(file, metadata={})
    second = copy.deepcopy(base)
    train(second, init_lora=str(file), seed=9, **options)
    torch.testing.assert_close(predicted(second), predicted(first), atol=1e-5, rtol=1e-5)


def test_a_run_begins_at_another_program_s_file_of_several_ranks(base: nn.Module, tmp_path: Path) -> None:
    """Strengths differ by layer there, said by tensors of their own."""
    layers = target_modules(base, "attention")
    noise = torch.Generator().manual_seed(4)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise) * 0.1

    pairs: dict[str, Pair] = {}
    for layer in layers:
        rank, weight = (2 if layer.endswith("to_out.0") else 4), dequantize(base.get_submodule(layer))
        down, up = drawn(rank, weight.shape[1]), drawn(weight.shape[0], rank)
        pairs[layer] = Pair(down=down, up=up, alpha=rank / (4 if rank == 2 else 2))
    theirs = tmp_path / "theirs.safetensors"
    write_comfyui_lora(theirs, pairs, base={}, metadata={})
    found = read_lora(theirs)
    ranks = ",".join(f"{layer}={pair.rank}" for layer, pair in found.items())
    lora = LoraOptions(lora_rank=4, lora_alpha=12.0, lora_ranks=ranks, init_lora=str(theirs))
    denoiser = copy.deepcopy(base)
    make_lora(denoiser, modules=layers, lora=lora, seed=0, pairs=found)
    merged = copy.deepcopy(base)
    for layer, pair in pairs.items():
        weight: Any = merged.get_submodule(layer).weight
        weight.data.copy_(pair.merged_into(weight.data))
    torch.testing.assert_close(predicted(denoiser), predicted(merged), atol=1e-4, rtol=1e-4)


def test_a_file_that_does_not_fit_is_refused(base: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "first.safetensors"
    train(copy.deepcopy(base)).export(file, metadata={})
    with pytest.raises(ModelError, match="Set use_dora"):
        train(copy.deepcopy(base), use_dora=True, init_lora=str(file))
    with pytest.raises(ModelError, match="set lora_rank"):
        lora, modules = LoraOptions(lora_rank=8, init_lora=str(file)), target_modules(base, "attention")
        make_lora(copy.deepcopy(base), modules=modules, lora=lora, seed=0, pairs=read_lora(file))


@pytest.mark.parametrize("options", [{"lora_alpha": 2.0}, {"use_rslora": True}, {"lora_init_type": "pissa"}])
@pytest.mark.parametrize("whole", [True, False], ids=["finished", "checkpoint"])
def test_layers_with_ranks_of_their_own_open_elsewhere(
    options: dict[str, Any], whole: bool, base: nn.Module, diffusers_pipeline: Any, tmp_path: Path
) -> None:
    denoiser = copy.deepcopy(base)
    trained = train(denoiser, lora_ranks="attn.to_q=2, transformer_blocks.1=6", **options)
    ranks = {name: len(weight) for name, weight in trained.weights.items() if "lora_A" in name}
    layer = "transformer.transformer_blocks.{}.attn.{}.lora_A.weight"
    assert [ranks[layer.format(*at)] for at in ((0, "to_q"), (1, "to_q"), (1, "to_k"), (2, "to_k"))] == [2, 6, 6, 4]
    with torch.no_grad():
        for each in trained.weights.values():
            each.add_(0.1 * torch.randn(each.shape, generator=torch.Generator().manual_seed(1)))
    if whole:
        trained.export(tmp_path / "pytorch_lora_weights.safetensors", metadata={})
    elif "lora_init_type" in options:
        return
    else:
        trained.save(tmp_path, metadata={})
    diffusers_pipeline.load_lora_weights(tmp_path)
    noisy, sigmas, text, pooled = inputs_of()
    with torch.no_grad():
        theirs = diffusers_pipeline.transformer(
            hidden_states=noisy, timestep=1000 * sigmas, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
    torch.testing.assert_close(theirs, predicted(denoiser), atol=1e-4, rtol=1e-4)


def test_a_rank_for_no_layer_is_refused(base: nn.Module) -> None:
    with pytest.raises(ModelError, match="lora_ranks names `to_w`"):
        train(copy.deepcopy(base), lora_ranks="to_w=4")


def test_without_another_start_a_lora_is_drawn_as_peft_and_linear_layers_are(base: nn.Module) -> None:
    """A even up to 1 / √inputs, which is Kaiming's bound at a = √5, and B zero (Hu et al. 2021, section 4.1)."""
    weights = train(copy.deepcopy(base)).weights
    downs = [weight.detach() for name, weight in weights.items() if "lora_A" in name]
    drawn = torch.cat([(weight * weight.shape[1] ** 0.5).flatten() for weight in downs])
    assert 0.99 < drawn.abs().max() <= 1
    assert drawn.std() == pytest.approx(3**-0.5, rel=0.05)
    assert not any(weight.any() for name, weight in weights.items() if "lora_B" in name)
