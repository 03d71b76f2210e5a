"""What every test may ask for: a small real SD3 pipeline, made once a session."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random SD3 of a few hundred thousand parameters, in diffusers layout."""
    from helpers.models.sd3.small import make_small_pipeline

    return make_small_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny", seed=0, size="tiny")
