"""What a run will take of a card, from its settings alone; the arithmetic itself is held in test_memory.py."""

from pathlib import Path
from typing import Any

import pytest

from helpers import convert
from helpers.config.parse import parse_arguments
from helpers.config.wizard.machine import MemoryPeaks
from helpers.models.sd3.memory.forecast import forecast

MEDIUM = "stabilityai/stable-diffusion-3.5-medium"


def peaks(model: str | Path = MEDIUM, **said: Any) -> MemoryPeaks:
    words = [f"--{name}={value}" for name, value in said.items()]
    found = forecast(parse_arguments([f"--pretrained_model_name_or_path={model}", "--max_train_steps=1", *words]))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "more",
    [
        {"train_batch_size": 4},
        {"gradient_checkpointing": "false"},
        {"resolution": 2.0},
        {"resolution": 1536, "resolution_type": "pixel"},
        {"lora_rank": 256},
        {"mixed_precision": "no"},
        {"validation_prompt": "a cat", "validation_resolution": "2048x2048", "gradient_checkpointing": "true"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_training_takes_more_with(more: dict[str, Any]) -> None:
    assert peaks(**more).training > peaks().training


def test_quantizing_takes_less_for_both() -> None:
    whole, eighth = peaks(), peaks(base_model_precision="int8-quanto")
    assert eighth.training < whole.training and eighth.encoding < whole.encoding
    t5_whole = peaks(base_model_precision="int8-quanto", text_encoder_3_precision="no_change")
    assert t5_whole.encoding > eighth.encoding and t5_whole.training == eighth.training


def test_a_folder_is_estimateed_by_its_own_config(tiny_pipeline: Path) -> None:
    assert peaks(tiny_pipeline).training < peaks().training / 5


def test_one_file_is_estimateed_as_its_folder(tiny_pipeline: Path, tmp_path: Path) -> None:
    whole = tmp_path / "sd3.safetensors"
    assert convert.main([str(tiny_pipeline), str(whole), "--to", "single-file", "--with-text-encoders"]) == 0
    assert peaks(whole, pretrained_parts_model_name_or_path=MEDIUM) == peaks(tiny_pipeline)
    less = tmp_path / "less.safetensors"
    assert convert.main([str(tiny_pipeline), str(less), "--to", "single-file"]) == 0
    assert peaks(less, pretrained_parts_model_name_or_path=tiny_pipeline) == peaks(tiny_pipeline)


def test_nothing_is_said_of_a_model_that_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for model in ("somebody/some-model", str(tmp_path)):
        config = parse_arguments([f"--pretrained_model_name_or_path={model}", "--max_train_steps=1"])
        assert forecast(config) is None
