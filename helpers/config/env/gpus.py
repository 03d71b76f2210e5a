"""The GPUs that the machine's drivers list, found without PyTorch, whether it can use them or not."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1024**2
MACHINE = Path("/")
HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU and its memory."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class ListedCards:
    """GPUs of one vendor that its driver lists. driver_version: empty if unknown."""

    names: tuple[str, ...]
    driver_version: str

    def __str__(self) -> str:
        names = ", ".join(self.names)
        return f"{names} (driver {self.driver_version})" if self.driver_version else names


def find_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that the driver lists; none without a driver."""
    rows = (line.rpartition(", ") for line in _nvidia_smi("name,memory.total"))
    return tuple(
        Gpu(name=name, memory_bytes=int(mebibytes) * MEBIBYTE) for name, _, mebibytes in rows if mebibytes.isdecimal()
    )


def nvidia_cards(machine: Path = MACHINE) -> ListedCards | None:
    """The NVIDIA GPUs, None if there are none.

    Listed by `nvidia-smi`; if it is missing or fails, as after a driver update without a restart, by the driver's
    files below `machine`.
    """
    rows = [line.rpartition(", ") for line in _nvidia_smi("name,driver_version")]
    if listed := [(name, version) for name, _, version in rows if name and re.fullmatch(r"[\d.]+", version)]:
        return ListedCards(names=tuple(name for name, _ in listed), driver_version=listed[0][1])
    driver = machine / "proc/driver/nvidia"
    names = tuple(_model(_text(file)) for file in sorted(driver.glob("gpus/*/information")))
    if not names:
        names = tuple(f"/{node.relative_to(machine)}" for node in sorted(machine.glob("dev/nvidia[0-9]*")))
    if not names:
        return None
    version = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", _text(driver / "version"))
    return ListedCards(names=names, driver_version=version[1] if version else "")


def amd_cards(machine: Path = MACHINE) -> ListedCards | None:
    """The AMD GPUs that ROCm's driver gives access to, including integrated ones; None if there are none."""
    node = machine / "dev/kfd"
    if not node.exists():
        return None
    version = _text(machine / "sys/module/amdgpu/version").strip()
    return ListedCards(names=(f"an AMD GPU (/{node.relative_to(machine)})",), driver_version=version)


def cards_hidden_by() -> str:
    """The environment variable that hides every GPU from this process, as `NAME=value`; empty if none does."""
    hiding = (f"{name}={os.environ[name]}" for name in HIDING if os.environ.get(name, "0") in ("", "-1", "NoDevFiles"))
    return next(hiding, "")


def _nvidia_smi(columns: str) -> list[str]:
    """A line per GPU with these columns; none if the tool is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _model(information: str) -> str:
    model = re.search(r"^Model:\s*(.+?)\s*$", information, flags=re.MULTILINE)
    return model[1] if model else "an NVIDIA card"


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
