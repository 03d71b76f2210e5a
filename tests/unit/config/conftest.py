"""What tests of the settings may ask for."""

from pathlib import Path

import pytest

from tests.unit.config.wizard_people import folder_of_images


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a folder of photographs, as the wizard finds it."""
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "barns", (1200, 900), (900, 1200), (1024, 1024))
    return tmp_path
