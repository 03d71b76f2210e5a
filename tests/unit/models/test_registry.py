"""Families are there to be named, and what a run does not use is not imported for it."""

import subprocess
import sys
from pathlib import Path

from helpers.models.registry import families

CACHED_START = """
import sys
import torch
from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions, TextOptions
from helpers.config.options.finetune import FullOptions
from helpers.models.adapters.registry import build_trainable
from helpers.models.registry import families

family = families()["sd3"]
assert "diffusers" not in sys.modules and "transformers" not in sys.modules and "peft" not in sys.modules
device, precision = torch.device("cpu"), PrecisionOptions(mixed_precision="no")
parts = family.locate(ModelOptions(pretrained_model_name_or_path=sys.argv[1]))
family.text_parts(parts, TextOptions(), precision, device)
family.latent_part(parts, precision, device)
assert "diffusers" not in sys.modules and "huggingface_hub" not in sys.modules
denoiser = family.load_denoiser(parts, precision, device)
options = {"model_type": "lora", "lora": LoraOptions(), "full": FullOptions()}
build_trainable(denoiser, family=family, parts=parts, seed=0, **options)
unused = ["optimum.quanto", "transformers.models.clip", "transformers.models.t5", "torchvision"]
unused += ["diffusers.pipelines", "diffusers.models.autoencoders.autoencoder_kl", "bitsandbytes"]
print([name for name in unused if name in sys.modules])
"""


def test_sd3_is_a_family() -> None:
    assert list(families()) == ["sd3"]


def test_a_cached_start_imports_neither_encoders_nor_pipelines(tiny_pipeline: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", CACHED_START, str(tiny_pipeline)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
