"""The embedded demo is whole: its pictures make three buckets, and its settings reach them."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

from PIL import Image

from tests.project.sources import ROOT

DEMO = ROOT / "config" / "demo"
PICTURES = sorted((DEMO / "pictures").iterdir())


def settings(folder: Path) -> dict[str, str]:
    """What config.env exports, with the making of the model left out."""
    told = {"PATH": os.environ["PATH"], "PYTHON": "true"}
    script = f"source {DEMO / 'config.env'} && env -0"
    shell = subprocess.run(["bash", "-euc", script], cwd=folder, env=told, capture_output=True, check=True)
    return dict(line.split("=", 1) for line in shell.stdout.decode().split("\0") if "=" in line)


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


def test_the_settings_reach_the_pictures(tmp_path: Path) -> None:
    told = settings(tmp_path)
    datasets = json.loads((ROOT / told["DATALOADER_CONFIG"]).read_text())
    assert (ROOT / told["OUTPUT_DIR"] / datasets[0]["instance_data_dir"]).resolve() == DEMO / "pictures"
    assert told["MODEL_NAME"].startswith(told["OUTPUT_DIR"])


def test_the_validation_prompt_is_a_picture_the_demo_learns(tmp_path: Path) -> None:
    assert settings(tmp_path)["VALIDATION_PROMPT"] in {picture.stem for picture in PICTURES}


def test_every_part_taken_from_elsewhere_has_its_notice() -> None:
    assert "@iconify-json/noto 1.2.9" in (DEMO / "NOTICE").read_text()
    assert "diffsynth 1.1.9" in (DEMO / "tokenizers" / "NOTICE").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()
