"""Runs tests in a process whose PyTorch finds the pretend CUDA device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretend_cuda.build import build, missing

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
LONGEST_SECONDS = 240

needs_the_device = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def pytest_there(*arguments: str) -> None:
    """Run pytest in a process whose PyTorch finds the pretend device; it has to pass with nothing skipped."""
    build()
    process = subprocess.run(
        [sys.executable, "-m", "pytest", *("-n", "0", "-q", "-rs", "--tb=short", "-p", "no:cacheprovider"), *arguments],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(HERE / "site"), str(REPOSITORY))),
            "OMP_NUM_THREADS": "1",
            "LYCORIS_KERNEL_BACKEND": "torch",  # the others are triton's and inductor's
        },
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    said = process.stdout + process.stderr
    assert process.returncode == 0, said
    assert "SKIPPED" not in said, said
