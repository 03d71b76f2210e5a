"""What each level of quantizing costs: the error of what a part of the demo's trained model puts out.

Every bound has two sides: an error too small would say that nothing, or not all, was quantized.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.models.family import ModelComponents
from helpers.models.registry import families
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.transformer import load_denoiser, predict

DEMO = Path(__file__).parents[3] / "config" / "demo" / "pipeline"
CAPTIONS = ["a red apple", "a blue car", "a green house", "a yellow star"]
PARTS = ("transformer", "CLIP-L", "CLIP-G", "T5")
BOUNDS = {
    "int8-quanto": (0.003, 0.02),
    "fp8-quanto": (0.015, 0.045),
    "int4-quanto": (0.05, 0.17),
    "int2-quanto": (0.3, 0.75),
}


def precision(level: str) -> PrecisionOptions:
    return PrecisionOptions(mixed_precision="no", base_model_precision=level)


@pytest.fixture(scope="module")
def demo() -> ModelComponents:
    return families()["sd3"].locate(ModelOptions(pretrained_model_name_or_path=str(DEMO)))


def predicted(parts: ModelComponents, level: str) -> Tensor:
    """The transformer's velocity at three noise levels."""
    denoiser = load_denoiser(parts, precision(level), torch.device("cpu"))
    config: Any = denoiser.config
    draw = torch.Generator().manual_seed(0)
    noisy = torch.randn(3, config.in_channels, 8, 8, generator=draw)
    text = torch.randn(3, 77, config.joint_attention_dim, generator=draw)
    pooled = torch.randn(3, config.pooled_projection_dim, generator=draw)
    with torch.no_grad():
        return predict(denoiser, noisy, torch.tensor([0.2, 0.5, 0.9]), text, pooled).float()


def encoded(parts: ModelComponents, level: str) -> list[Tensor]:
    """What each text encoder says of the captions."""
    found = text_parts(parts, TextOptions(), precision(level), torch.device("cpu"))
    return [part.load().encode(CAPTIONS)["hidden"].float() for part in found]


def error(rough: Tensor, exact: Tensor) -> float:
    return float((rough - exact).norm() / exact.norm())


@pytest.fixture(scope="module")
def exact(demo: ModelComponents) -> list[Tensor]:
    return [predicted(demo, "no_change"), *encoded(demo, "no_change")]


@pytest.mark.parametrize(("level", "bounds"), BOUNDS.items())
def test_a_level_s_error_is_what_its_bits_come_to(
    demo: ModelComponents, exact: list[Tensor], level: str, bounds: tuple[float, float]
) -> None:
    rough = [predicted(demo, level), *encoded(demo, level)]
    errors = {part: error(*pair) for part, *pair in zip(PARTS, rough, exact, strict=True)}
    sys.stdout.write(f"{level}: {', '.join(f'{part} {value:.2%}' for part, value in errors.items())}\n")
    smallest, largest = bounds
    assert all(smallest < value < largest for value in errors.values()), errors
