"""The rank of this process in a run; the launcher's engine implements it for several processes."""

from dataclasses import dataclass
from typing import Protocol


class Ranks(Protocol):
    """The rank of this process, the number of processes, and a barrier."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def barrier(self) -> None:
        """Block until every process has called this."""
        ...


@dataclass(frozen=True)
class SingleProcess:
    """A run of one process."""

    rank: int = 0
    world_size: int = 1

    def barrier(self) -> None:
        """Return at once; there are no other processes."""
