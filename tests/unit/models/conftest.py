"""The small pipeline as the trainer sees it, and as plain diffusers does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.config.options.model import ModelOptions, PrecisionOptions
from helpers.models.protocols import ModelParts
from helpers.models.sd3.parts import locate


@pytest.fixture(scope="session")
def cpu() -> torch.device:
    return torch.device("cpu")


@pytest.fixture(scope="session")
def full_precision() -> PrecisionOptions:
    return PrecisionOptions(mixed_precision="no")


@pytest.fixture(scope="session")
def parts(tiny_pipeline: Path) -> ModelParts:
    return locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))


@pytest.fixture
def diffusers_pipeline(tiny_pipeline: Path) -> Any:
    """A fresh plain pipeline in fp32, with no adapter."""
    from diffusers import StableDiffusion3Pipeline

    pipeline = StableDiffusion3Pipeline.from_pretrained(tiny_pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
