"""What every test may ask for: a small real SD3 pipeline, made once a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.buckets import BucketServer, bucket_server

# Read when the hub's client is first imported: the loopback hub speaks its older way to upload.
os.environ["HF_HUB_DISABLE_XET"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inductor", action="store_true", help="compile for real where a test compiles: minutes each")


@pytest.fixture
def compiler(request: pytest.FixtureRequest) -> str:
    """The back-end for tests of compiling: PyTorch's own without its last stage, which takes a minute, unless asked."""
    return "inductor" if request.config.getoption("--inductor") else "aot_eager"


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random SD3 of a few hundred thousand parameters, in diffusers layout."""
    from helpers.models.sd3.tiny import make_tiny_pipeline

    return make_tiny_pipeline(tmp_path_factory.mktemp("pipeline") / "tiny", seed=0, size="tiny")


@pytest.fixture(scope="session")
def buckets() -> Iterator[BucketServer]:
    """An S3-compatible server on this machine."""
    with bucket_server() as server:
        yield server
