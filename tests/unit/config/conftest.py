"""What tests of the settings may ask for."""

from pathlib import Path

import pytest

from tests.unit.config.launching import REPOSITORY, STAND_IN
from tests.unit.config.wizard_people import folder_of_images


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a folder of photographs, as the wizard finds it."""
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "barns", (1200, 900), (900, 1200), (1024, 1024))
    return tmp_path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository with the real train.sh and helpers, and a train.py that ends with status 7."""
    root = tmp_path / "a copy"
    (root / "config").mkdir(parents=True)
    (root / "helpers").symlink_to(REPOSITORY / "helpers")
    (root / "train.sh").write_bytes((REPOSITORY / "train.sh").read_bytes())
    (root / "train.py").write_text(STAND_IN)
    return root
