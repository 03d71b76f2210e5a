"""What the wizard can find out about the machine and ask of the rest of the program, which it must not import."""

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
    """What the headers of a folder's images tell.

    images: how many there are; where there are very many, as estimated from those looked at;
    sizes: upright width and height in pixels of those looked at; unreadable: images that cannot be read among them;
    captioned: images with a text file beside; telling_names: of those looked at, names that read like captions.
    """

    images: int
    sizes: tuple[tuple[int, int], ...]
    unreadable: int = 0
    captioned: int = 0
    telling_names: int = 0
    example: str = ""


@dataclass(frozen=True, kw_only=True)
class MemoryPeaks:
    """The most memory in bytes that encoding, and that training with its test images, take of a card."""

    encoding: int
    training: int


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """What is here, and what the program can say of it.

    look_at: a look at a folder of images; raises UserError. memory: what a run takes, None where nobody knows.
    logged_in: whether the hub knows us. log_in: logs in, by asking in the terminal; None where there is no terminal.
    """

    gpus: tuple[Gpu, ...]
    is_mac: bool
    look_at: Callable[[Path], FolderPreview]
    memory: "Callable[[RunConfig], MemoryPeaks | None]"
    logged_in: Callable[[], bool]
    log_in: Callable[[], None] | None

    @property
    def room_bytes(self) -> int | None:
        """The memory of the smallest card, which every process must fit into; None where there is no card."""
        return min((gpu.memory_bytes for gpu in self.gpus), default=None)


def log_in() -> None:
    """Have the hub's own program ask for a token; what it says is for the person to read."""
    subprocess.run([Path(sys.executable).with_name("hf"), "auth", "login"], check=False)
