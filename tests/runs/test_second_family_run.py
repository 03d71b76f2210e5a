"""A second family needs a module and a line in the registry: it trains, is exported and described by its own facts."""

from pathlib import Path

import pytest
from safetensors import safe_open

from helpers.models import registry
from tests.runs.harness import SmallRun, draw_set
from tests.toy_family import FACTS, LAYERS, toy_family


def test_a_second_family_is_trained_exported_and_described(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, toy_family))
    monkeypatch.setattr(registry, "DEFAULT_FAMILY", "toy")
    run = SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 2, "gradient_accumulation_steps": 1})
    draw_set(run.output / "datasets" / "colors")
    assert run.start() == 0

    weights = run.weights()
    assert {name.split(".")[1] for name in weights} == set(LAYERS)
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    with safe_open(run.output / "pytorch_lora_weights.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == f"{FACTS.architecture}/lora"
    card = (run.output / "README.md").read_text()
    assert f"from diffusers import {FACTS.pipeline_class}" in card
    assert f"- {FACTS.hub_tag}" in card
    assert "StableDiffusion3" not in card and "stable-diffusion-3" not in card
