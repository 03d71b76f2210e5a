"""The embedded demo is whole: its pictures make three buckets, and its settings reach them."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from helpers.config.cli import parse_arguments
from helpers.config.datasets import load_datasets
from helpers.config.launch import translated
from helpers.config.run_config import RunConfig
from helpers.models.registry import families
from tests.project.sources import ROOT

DEMO = ROOT / "config" / "demo"
PICTURES = sorted((DEMO / "pictures").iterdir())


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """What the demo's env file comes to, read in a clone."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return parse_arguments(translated(Path("config/demo/config.env"), flags=[]).arguments)


def test_the_pictures_are_small_and_of_three_shapes() -> None:
    shapes: Counter[tuple[int, int]] = Counter()
    for picture in PICTURES:
        with Image.open(picture) as image:
            assert (image.format, image.mode) == ("PNG", "RGB"), picture.name
            shapes[image.size] += 1
    assert set(shapes) == {(128, 128), (192, 128), (128, 192)}
    assert min(shapes.values()) >= 16
    assert 60 <= len(PICTURES) <= 200
    assert sum(picture.stat().st_size for picture in PICTURES) < 1_500_000


def test_the_settings_reach_the_pictures(demo: RunConfig) -> None:
    (dataset,) = load_datasets(demo).images
    assert dataset.instance_data_dir.resolve() == DEMO / "pictures"
    assert Path(demo.model.pretrained_model_name_or_path).resolve() == DEMO / "pipeline"


def test_the_embedded_model_is_a_whole_sd3_of_at_most_24_mb(demo: RunConfig) -> None:
    assert families()["sd3"].locate(demo.model).longest_edge_px >= 192
    assert sum(file.stat().st_size for file in (DEMO / "pipeline").rglob("*") if file.is_file()) <= 24_000_000


def test_the_validation_prompt_is_a_picture_the_demo_learns(demo: RunConfig) -> None:
    assert demo.validation.validation_prompt in {picture.stem for picture in PICTURES}


def test_every_part_taken_from_elsewhere_has_its_notice() -> None:
    assert "@iconify-json/noto 1.2.9" in (DEMO / "NOTICE").read_text()
    assert "diffsynth 1.1.9" in (DEMO / "tokenizers" / "NOTICE").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
