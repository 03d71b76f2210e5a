"""Which of a run's processes this one is; the launcher's engine supplies the real thing."""

from dataclasses import dataclass
from typing import Protocol


class Ranks(Protocol):
    """This process's number among `world_size`, and a place where all of them meet."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def barrier(self) -> None:
        """Return once every process has come here."""
        ...


@dataclass(frozen=True)
class SingleProcess:
    """A run of one process."""

    rank: int = 0
    world_size: int = 1

    def barrier(self) -> None:
        """Nobody to wait for."""
