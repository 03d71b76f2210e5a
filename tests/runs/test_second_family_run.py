"""A second family needs a folder, a line in the registry and its pipeline's name: runs choose it by the base model."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.config.checks import paths
from helpers.config.options.model import ModelOptions
from helpers.models import registry
from tests.runs.harness import SmallRun, draw_set, image_of
from tests.toy_family.components import DENOISER, WEIGHTS, locate, write_toy
from tests.toy_family.family import FACTS, SHAPES, toy_family


@pytest.fixture
def toy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallRun:
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, toy_family))
    monkeypatch.setattr(paths, "PIPELINES", (*paths.PIPELINES, FACTS.pipeline_class))
    settings = {"max_train_steps": 2, "gradient_accumulation_steps": 1, "validation_prompt": "a red square"}
    run = SmallRun(tmp_path, write_toy(tmp_path / "toy"), settings=settings)
    draw_set(run.output / "datasets" / "colors")
    return run


def check_card(run: SmallRun) -> None:
    card = (run.output / "README.md").read_text()
    assert FACTS.pipeline_class in card
    assert f"- {FACTS.hub_tag}" in card
    assert "license: apache-2.0" in card
    assert "StableDiffusion3" not in card and "stable-diffusion-3" not in card
    assert "sd3_t5_mask_behaviour" not in card and "max_sequence_length" not in card


def test_a_lora_of_a_second_family_is_trained_exported_and_described(toy_run: SmallRun) -> None:
    assert toy_run.start() == 0
    assert toy_run.saved_steps() == [2]
    weights = toy_run.weights()
    assert {name.split(".")[1] for name in weights} == set(SHAPES)
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    with safe_open(toy_run.output / "pytorch_lora_weights.safetensors", framework="pt") as file:
        said = file.metadata()
    assert said["modelspec.architecture"] == "toy-v1-one/lora"
    assert said["modelspec.license"] == "apache-2.0"
    assert not {"tokenizer_max_length", "sd3_t5_mask_behaviour"} & said.keys()
    assert np.ptp(image_of(toy_run, 2)) > 0
    check_card(toy_run)
    assert f"from diffusers import {FACTS.pipeline_class}" in (toy_run.output / "README.md").read_text()


def test_a_model_of_a_second_family_is_trained_in_full_and_becomes_a_base(toy_run: SmallRun) -> None:
    assert toy_run.start(model_type="full") == 0
    trained = toy_run.output / "pipeline"
    before, after = (load_file(folder / DENOISER / WEIGHTS) for folder in (toy_run.pipeline, trained))
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before)
    assert registry.family_of(str(trained)).name == "toy"
    again = locate(ModelOptions(pretrained_model_name_or_path=str(trained)))
    assert again.identity != locate(ModelOptions(pretrained_model_name_or_path=str(toy_run.pipeline))).identity
    check_card(toy_run)


def test_a_base_that_names_no_known_family_is_the_default_ones(toy_run: SmallRun, tmp_path: Path) -> None:
    assert registry.family_of(str(toy_run.pipeline)).name == "toy"
    assert registry.family_of("stabilityai/stable-diffusion-3.5-medium").name == "sd3"
    assert registry.family_of(str(tmp_path / "nowhere")).name == registry.family_of("").name == "sd3"
    (toy_run.pipeline / "model_index.json").write_text("{")
    assert registry.family_of(str(toy_run.pipeline)).name == registry.DEFAULT_FAMILY
