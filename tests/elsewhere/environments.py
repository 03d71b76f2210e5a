"""Environments with another diffusers, and the transformers and peft of its time, over the one that is running.

Each is a folder that stands before this environment's own packages; what it does not hold, such as PyTorch, is shared.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.runs.harness import REPOSITORY

OPENER = REPOSITORY / "tests" / "elsewhere" / "open_exports.py"
NEWEST = "newest"
HASTE = ("--no-deps", "--no-compile", "--retries=1", "--timeout=5")
PACKAGES: Mapping[str, Sequence[str]] = {
    "0.31.0": ("transformers==4.46.3", "tokenizers==0.20.3", "peft==0.13.2", "huggingface_hub==0.26.5"),
    "0.32.2": ("transformers==4.48.3", "tokenizers==0.21.1", "peft==0.14.0", "huggingface_hub==0.27.1"),
    "0.33.1": ("transformers==4.51.3", "tokenizers==0.21.1", "peft==0.15.2", "huggingface_hub==0.30.2"),
    "0.35.2": ("transformers==4.57.1", "tokenizers==0.22.1", "peft==0.17.1", "huggingface_hub==0.35.3"),
    "0.37.1": ("transformers==5.3.0", "tokenizers==0.22.2", "peft==0.18.1", "huggingface_hub==1.5.0"),
    "0.39.0": ("transformers==5.12.0", "tokenizers==0.22.2", "peft==0.19.1", "huggingface_hub==1.20.1"),
    NEWEST: ("transformers", "tokenizers", "peft", "huggingface_hub"),
}
"""What is installed with each version of diffusers."""


class NotInstalledError(Exception):
    """What pip reports, where there is no network, or no pip."""


def environment(folder: Path, version: str) -> Path:
    """The folder inside `folder` with that version's packages, installed unless it stands; raises NotInstalledError."""
    target, ready = folder / f"diffusers-{version}", folder / f"diffusers-{version}.ready"
    if not ready.exists():
        diffusers = "diffusers" if version == NEWEST else f"diffusers=={version}"
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-compile",
            "--retries=1",
            "--timeout=5",
            "--upgrade",
        ]
        done = subprocess.run(
            [*install, f"--target={target}", diffusers, *PACKAGES[version]], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotInstalledError(done.stderr.strip().rpartition("\n")[2])
        ready.touch()
    return target


def opened_with(packages: Path, exports: Path) -> dict[str, Any]:
    """What `open_exports.py` prints of a folder of exports with these packages."""
    done = subprocess.run(
        [sys.executable, str(OPENER), str(exports)],
        env={**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])
