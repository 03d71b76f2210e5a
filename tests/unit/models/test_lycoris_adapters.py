"""LyCORIS's adapters sit where the file says, leave the base alone, and open in `lycoris` as they were trained."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.config.files.lycoris import LycorisConfig, needed_lycoris
from helpers.config.options.model import ModelOptions, PrecisionOptions
from helpers.errors import ModelError
from helpers.models.adapters.lycoris import make_lycoris
from helpers.models.family import ModelComponents
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.transformer import load_denoiser, predict
from helpers.models.sd3.weights.components import locate
from tests.unit.models.lora import KINDS, inputs_of, randomise

TARGETS = {"target_module": ["Attention", "FeedForward"]}


@pytest.fixture(scope="module")
def base(parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device) -> nn.Module:
    return load_denoiser(parts, full_precision, cpu)


def config_of(folder: Path, **said: Any) -> LycorisConfig:
    file = folder / "lycoris.json"
    file.write_text(json.dumps({"linear_dim": 4, "linear_alpha": 2, "apply_preset": TARGETS, **said}))
    return needed_lycoris(file)


def predicted(denoiser: nn.Module) -> Tensor:
    with torch.no_grad():
        return predict(denoiser, *inputs_of())


def opened_by_lycoris(file: Path, denoiser: nn.Module) -> Tensor:
    from lycoris import create_lycoris_from_weights

    network, _ = create_lycoris_from_weights(1.0, str(file), denoiser)
    network.apply_to()
    return predicted(denoiser)


@pytest.mark.parametrize(
    "said",
    [
        {"algo": "lokr", "factor": 4},
        {"algo": "lokr", "linear_dim": 10000, "linear_alpha": 1, "factor": 4},
        {"algo": "loha"},
        {"algo": "full"},
        {"algo": "lora"},
    ],
    ids=lambda said: f"{said['algo']} {said.get('linear_dim', '')}",
)
def test_each_algorithm_learns_and_opens_in_lycoris(said: dict[str, Any], base: nn.Module, tmp_path: Path) -> None:
    denoiser, plain = copy.deepcopy(base), predicted(base)
    trained = make_lycoris(denoiser, config=config_of(tmp_path, **said), seed=0)
    assert torch.allclose(predicted(denoiser), plain, atol=1e-6)
    assert {id(each) for each in denoiser.parameters() if each.requires_grad} == set(map(id, trained.weights.values()))
    randomise(trained.weights)
    ours = predicted(denoiser)
    assert (ours - plain).abs().max() > 1e-3
    with trained.as_base(denoiser):
        assert torch.equal(predicted(denoiser), plain)
    assert torch.equal(predicted(denoiser), ours)
    trained.export(tmp_path / "lora.safetensors", metadata={})
    torch.testing.assert_close(
        opened_by_lycoris(tmp_path / "lora.safetensors", copy.deepcopy(base)), ours, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["SD3.5 medium", "SD3.5 large"])
def test_a_lokr_sits_on_each_sd3_5(kind: str, tmp_path: Path, full_precision: PrecisionOptions, cpu: Any) -> None:
    folder = make_tiny_pipeline(tmp_path / "pipeline", **KINDS[kind])
    denoiser = load_denoiser(locate(ModelOptions(pretrained_model_name_or_path=str(folder))), full_precision, cpu)
    base = copy.deepcopy(denoiser)
    trained = make_lycoris(denoiser, config=config_of(tmp_path, algo="lokr", factor=4), seed=0)
    assert any("attn2_to_q" in name for name in trained.weights) == (kind == "SD3.5 medium")
    randomise(trained.weights)
    trained.export(tmp_path / "lora.safetensors", metadata={})
    opened = opened_by_lycoris(tmp_path / "lora.safetensors", base)
    torch.testing.assert_close(opened, predicted(denoiser), atol=1e-4, rtol=1e-4)


def test_small_steps_are_not_rounded_away_beside_bf16_weights(parts: ModelComponents, tmp_path: Path) -> None:
    precision = PrecisionOptions(mixed_precision="bf16")
    denoiser = load_denoiser(parts, precision, torch.device("cpu"))
    config = config_of(tmp_path, algo="lokr", factor=4, apply_preset={"target_module": ["Attention"]})
    trained = make_lycoris(denoiser, config=config, seed=0)
    layer: Any = denoiser.get_submodule("transformer_blocks.0.attn.to_q")
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    module = layer._lycoris_wrappers[0]
    with torch.no_grad():
        for name, weight in trained.weights.items():
            if name.startswith("lycoris_transformer_blocks_0_attn_to_q.lokr_w2"):
                weight.fill_(1e-3)
        expected = x.float() @ (module.get_weight((32, 32)).float()).T
        assert torch.allclose(module.bypass_forward_diff(x).float(), expected, atol=1e-5, rtol=0.02)
        assert expected.abs().max() > 0 and module.bypass_mode


def test_the_start_depends_on_the_seed_alone(base: nn.Module, tmp_path: Path) -> None:
    def start(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed + 100)
        before = torch.get_rng_state()
        trained = make_lycoris(copy.deepcopy(base), config=config_of(tmp_path, algo="loha"), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return dict(trained.weights)

    first, again, another = start(1), start(1), start(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], another[name]) for name in first)


def test_a_checkpoint_comes_back_and_another_file_s_is_refused(base: nn.Module, tmp_path: Path) -> None:
    trained = make_lycoris(copy.deepcopy(base), config=config_of(tmp_path, algo="loha"), seed=0)
    randomise(trained.weights)
    trained.save(tmp_path, metadata={})
    again = make_lycoris(copy.deepcopy(base), config=config_of(tmp_path, algo="loha"), seed=1)
    again.load(tmp_path)
    assert all(torch.equal(again.weights[name], weight) for name, weight in trained.weights.items())
    other = make_lycoris(copy.deepcopy(base), config=config_of(tmp_path, algo="loha", linear_alpha=4), seed=0)
    with pytest.raises(ModelError, match="another lycoris_config"):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("preset", "hint"),
    [
        ({"target_module": ["Atention"]}, "did you mean Attention"),
        ({"target_name": ["transformer_blocks.9.*"]}, "no module has that name"),
        ({"target_module": ["RMSNorm"]}, "names `RMSNorm`"),
        ({"target_module": ["AdaLayerNormZero"], "exclude_name": ["transformer_blocks"]}, "leaves no layer to train"),
    ],
)
def test_targets_that_are_nowhere_are_refused(
    preset: dict[str, Any], hint: str, base: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=hint):
        make_lycoris(copy.deepcopy(base), config=config_of(tmp_path, algo="lokr", apply_preset=preset), seed=0)


def test_full_differences_of_quantized_layers_are_refused(
    parts: ModelComponents, cpu: torch.device, tmp_path: Path
) -> None:
    denoiser = load_denoiser(parts, PrecisionOptions(mixed_precision="no", base_model_precision="int8-quanto"), cpu)
    with pytest.raises(ModelError, match="algo=full needs base_model_precision=no_change"):
        make_lycoris(denoiser, config=config_of(tmp_path, algo="full"), seed=0)
