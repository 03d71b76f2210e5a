"""Every preset fits the card it is named after, passes the checks, and trains a step on a tiny model of its kind."""

import json
import re
import shutil
from pathlib import Path

import pytest

from helpers.config.env.launch import translated
from helpers.config.parse import parse_arguments
from helpers.config.train_config import RunConfig
from helpers.models.sd3.memory.forecast import PUBLISHED, forecast
from helpers.models.sd3.tiny import make_tiny_pipeline
from tests.runs.harness import REPOSITORY, draw

FOLDER = REPOSITORY / "config" / "presets"
PRESETS = sorted(file.parent.name for file in FOLDER.glob("*/config.env"))
KINDS = {
    "SD3 medium": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}
SMALL = {
    "max_train_steps": 1,
    "num_train_epochs": 0,
    "gradient_accumulation_steps": 1,
    "train_batch_size": 1,
    "resolution": 64,
    "resolution_type": "pixel",
    "aspect_bucket_alignment": 16,
    "validation_num_inference_steps": 1,
    "validation_resolution": "64x64",
    "lr_warmup_steps": 0,
    "torch_num_threads": 1,
    "max_workers": 1,
}


def arguments_of(preset: str) -> tuple[str, ...]:
    """What a preset's env file comes to."""
    return translated(FOLDER / preset / "config.env", flags=[]).arguments


def config_of(preset: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The preset's settings, checked in an empty clone."""
    (folder / "config").symlink_to(REPOSITORY / "config")
    monkeypatch.chdir(folder)
    return parse_arguments(arguments_of(preset))


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: make_tiny_pipeline(folder / kind.replace(" ", "-"), **said) for kind, said in KINDS.items()}


def test_presets_for_every_model_and_card_are_there() -> None:
    cards = {"sd3-medium": (8, 12, 16, 24), "sd35-medium": (8, 12, 16, 24), "sd35-large": (8, 12, 16, 24)}
    wanted = {f"{model}-lora-{card}gb" for model, sizes in cards.items() for card in sizes}
    wanted |= {"sd3-medium-full-24gb", "sd35-medium-full-24gb", "sd35-large-full-80gb"}
    assert wanted | {"style", "subject", "large-data-set"} <= set(PRESETS)
    named = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{preset}`" in named for preset in PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_the_card_it_is_for(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(preset, tmp_path, monkeypatch)
    (card,) = re.findall(r"GPU with (\d+) GB", (FOLDER / preset / "config.env").read_text(encoding="utf-8"))
    peaks = forecast(config)
    assert peaks is not None
    assert max(peaks.encoding, peaks.training) < 0.92 * int(card) * 1e9


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_trains_a_step(
    preset: str, tmp_path: Path, pipelines: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import train

    config = config_of(preset, tmp_path, monkeypatch)
    output = tmp_path / config.run.output_dir
    file = config.data.data_backend_config or str(REPOSITORY / "config" / "multidatabackend.json.example")
    entries = json.loads((REPOSITORY / file).read_text(encoding="utf-8"))
    for entry in entries:
        for key in ("resolution", "resolution_type", "minimum_image_size"):
            entry.pop(key, None)  # those of the tiny run
        if "instance_data_dir" in entry:
            draw(output / entry["instance_data_dir"] / "one.png", color=(200, 30, 30), size=(80, 80))
            (output / entry["instance_data_dir"] / "one.txt").write_text("one")
    datasets = tmp_path / "datasets.json"
    datasets.write_text(json.dumps(entries))
    pipeline = pipelines[PUBLISHED[config.model.pretrained_model_name_or_path]]
    small = {**SMALL, "pretrained_model_name_or_path": pipeline, "data_backend_config": datasets}
    assert train.main([*arguments_of(preset), *(f"--{name}={value}" for name, value in small.items())]) == 0
    lora, full = output / "pytorch_lora_weights.safetensors", output / "pipeline" / "model_index.json"
    assert (full if config.model.model_type == "full" else lora).is_file()
    shutil.rmtree(output)
