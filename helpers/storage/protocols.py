"""Interfaces for file storage; a source has no methods to write or delete."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

SIZE_UNKNOWN = -1


class Listed(NamedTuple):
    """One file of a store: its path relative to the root with forward slashes, its size, and its tag.

    size_bytes: SIZE_UNKNOWN if only reading the file would give it. tag: changes whenever the file does.
    """

    path: str
    size_bytes: int
    tag: str


class SourceStore(Protocol):
    """The place of your images and captions; read-only."""

    def list(self) -> Iterator[Listed]:
        """Every file, ordered by path; raises DataError if the place cannot be read.

        Files in hidden folders may be left out.
        """
        ...

    def read(self, path: str) -> bytes:
        """A file's bytes; raises OSError if it cannot be read."""
        ...

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of a file, or all if it is shorter; raises OSError."""
        ...

    def describe(self) -> str:
        """The place, for messages; without credentials."""
        ...


class CacheStore(Protocol):
    """A folder of files that are written atomically."""

    @property
    def folder(self) -> Path:
        """The local folder of the files or their mirror; it may not exist yet."""
        ...

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every complete file, by name; without leftovers of a killed writer."""
        ...

    def is_here(self, name: str) -> bool:
        """Whether `local_path` returns a file without fetching it first."""
        ...

    def local_path(self, name: str) -> Path:
        """A local path that can be memory-mapped; raises CacheError if the file cannot be fetched."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name, sync and rename it; raises CacheError naming the place."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; it may already be deleted."""
        ...

    def describe(self) -> str:
        """The place, for messages; without credentials."""
        ...


class FileMissing(OSError):
    """A listed file that is not available; the message says why, as a phrase that follows the file's name."""
