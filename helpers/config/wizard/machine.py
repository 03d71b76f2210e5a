"""What the wizard finds out about the machine, and functions of the rest of the program, which it must not import."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.config.env.gpus import Gpu

if TYPE_CHECKING:
    from helpers.config.train_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class FolderPreview:
    """A summary of the images in a folder, from their headers.

    images: their number, estimated if there are very many; sizes: upright width and height in pixels of those that were
    read; unreadable: how many of them cannot be read; captioned: images with a text file next to them; telling_names:
    how many names read like captions.
    """

    images: int
    sizes: tuple[tuple[int, int], ...]
    unreadable: int = 0
    captioned: int = 0
    telling_names: int = 0
    example: str = ""


@dataclass(frozen=True, kw_only=True)
class MemoryPeaks:
    """Peak VRAM in bytes of encoding, and of training with its validation images."""

    encoding: int
    training: int


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """The machine, and functions of the program.

    look_at: summarizes a folder of images; raises UserError. memory: the memory of a run, None if unknown. logged_in:
    whether there is a login to the hub. log_in: logs in, by asking in the terminal; None without a terminal.
    """

    gpus: tuple[Gpu, ...]
    is_mac: bool
    look_at: Callable[[Path], FolderPreview]
    memory: "Callable[[RunConfig], MemoryPeaks | None]"
    logged_in: Callable[[], bool]
    log_in: Callable[[], None] | None

    @property
    def room_bytes(self) -> int | None:
        """The memory of the smallest GPU, which every process must fit into; None without a GPU."""
        return min((gpu.memory_bytes for gpu in self.gpus), default=None)


def log_in() -> None:
    """Run the hub's own login, which asks for a token in the terminal."""
    subprocess.run([Path(sys.executable).with_name("hf"), "auth", "login"], check=False)
