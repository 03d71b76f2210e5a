"""The embedded demo is whole: its model, its images of another style, and settings that reach them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from helpers.config.datasets.file import load_datasets
from helpers.config.env.launch import translated
from helpers.config.parse import parse_arguments
from helpers.config.train_config import RunConfig
from helpers.models.registry import families
from tests.project.sources import ROOT

DEMO = ROOT / "config" / "demo"
STYLE = DEMO / "style"
IMAGES, HELD_OUT = (sorted((STYLE / name).iterdir()) for name in ("images", "held_out"))


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """What the demo's env file comes to, read in a clone."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return parse_arguments(translated(Path("config/demo/config.env"), flags=[]).arguments)


def test_the_images_are_small() -> None:
    for file in (*IMAGES, *HELD_OUT):
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64)), file.name
    assert (len(IMAGES), len(HELD_OUT)) == (60, 12)


def test_the_settings_reach_the_images(demo: RunConfig) -> None:
    files = load_datasets(demo)
    folders = [dataset.instance_data_dir.resolve() for dataset in (*files.images, *files.eval)]
    assert folders == [STYLE / "images", STYLE / "held_out"]
    assert Path(demo.model.pretrained_model_name_or_path).resolve() == DEMO / "pipeline"


def test_the_embedded_model_is_a_whole_sd3_of_at_most_24_mb(demo: RunConfig) -> None:
    assert families()["sd3"].locate(demo.model).longest_edge_px >= 192
    assert sum(file.stat().st_size for file in (DEMO / "pipeline").rglob("*") if file.is_file()) <= 24_000_000


def test_the_prompts_are_of_things_trained_on_and_of_others(demo: RunConfig) -> None:
    asked = set(json.loads(Path(str(demo.validation.user_prompt_library)).read_text()).values())
    seen, unseen = ({image.stem for image in images} for images in (IMAGES, HELD_OUT))
    assert asked <= seen | unseen
    assert asked & seen
    assert asked & unseen


def test_every_part_taken_from_elsewhere_has_its_notice() -> None:
    assert "@iconify-json/noto 1.2.9" in (DEMO / "pipeline" / "NOTICE").read_text()
    assert "@iconify-json/fluent-emoji-flat 1.2.6" in (STYLE / "NOTICE").read_text()
    assert "diffsynth 1.1.9" in (ROOT / "helpers" / "models" / "sd3" / "assets" / "NOTICE").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
