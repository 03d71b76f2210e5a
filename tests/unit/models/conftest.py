"""The small pipeline as the trainer sees it, and as plain diffusers does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.config.options.model import ModelOptions, PrecisionOptions
from helpers.models.family import ModelComponents
from helpers.models.sd3.weights.components import locate


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower with several, and far slower where other programs want the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="session")
def full_precision() -> PrecisionOptions:
    return PrecisionOptions(mixed_precision="no")


@pytest.fixture(scope="session")
def parts(tiny_pipeline: Path) -> ModelComponents:
    return locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))


@pytest.fixture
def diffusers_pipeline(tiny_pipeline: Path) -> Any:
    """A fresh plain pipeline in fp32, with no adapter."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
