"""A copy of the launcher with a stand-in for train.py, and how to start it."""

import os
import subprocess
import sys
from pathlib import Path

from helpers.config.env.launch import command_line
from helpers.config.env.translate import Translation
from helpers.config.options.launch import LaunchOptions

REPOSITORY = Path(__file__).resolve().parents[3]
VENV = Path(sys.prefix)
LEAST = "MODEL_NAME=some/model\nMAX_NUM_STEPS=10\n"

STAND_IN = """
import os, signal, sys, time
print(*sys.argv, "HF_HOME=" + os.environ.get("HF_HOME", ""), sep="\\n", flush=True)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, _: sys.exit(128 + n))
if "--seed=99" in sys.argv:
    time.sleep(20)
sys.exit(7)
"""


def environment(**more: str) -> dict[str, str]:
    unset = ("ENV", "HF_HOME", "XDG_CACHE_HOME", "VIRTUAL_ENV", "VENV_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return kept | {"VENV_PATH": str(VENV), "XDG_CACHE_HOME": "/nonexistent"} | more


def write_env_file(root: Path, text: str, *, name: str = "") -> None:
    folder = root / "config" / name
    folder.mkdir(exist_ok=True)
    (folder / "config.env").write_text(text)


def run_train_sh(root: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", root / "train.sh", *words]
    return subprocess.run(
        command, cwd=root.parent, env=environment(**more), capture_output=True, text=True, timeout=120, check=False
    )


def words_for(launch: LaunchOptions, cache: Path) -> list[str]:
    return command_line(Translation(arguments=("--seed=1",), launch=launch), environment={"XDG_CACHE_HOME": str(cache)})
