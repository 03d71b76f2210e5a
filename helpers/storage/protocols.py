"""What a place for bytes must be able to do; a source has no way to write or delete in its type."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

SIZE_UNKNOWN = -1


class Listed(NamedTuple):
    """One file of a store: its path from the store's root with forward slashes, and what changes when it does.

    size_bytes: SIZE_UNKNOWN where only reading it would tell.
    """

    path: str
    size_bytes: int
    tag: str


class SourceStore(Protocol):
    """Where a person's images and captions are; never written to."""

    def list(self) -> Iterator[Listed]:
        """Every file, in the order of their paths; raises DataError where the place cannot be read.

        Hidden folders need not be looked into.
        """
        ...

    def read(self, path: str) -> bytes:
        """A file's bytes; raises OSError where it cannot be read."""
        ...

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of a file, or all of a shorter one; raises OSError."""
        ...

    def describe(self) -> str:
        """The place in words, for messages; free of credentials."""
        ...


class CacheStore(Protocol):
    """A folder of whole files: a file is there entirely or not at all."""

    @property
    def folder(self) -> Path:
        """The folder of this machine that the files lie or are mirrored in; it need not be there yet."""
        ...

    def sizes(self) -> dict[str, int]:
        """The bytes of every complete file, by name; leftovers of a killed writer are not complete."""
        ...

    def is_here(self, name: str) -> bool:
        """Whether `local_path` leads to a file without fetching it first."""
        ...

    def local_path(self, name: str) -> Path:
        """Where the file can be mapped into memory; raises CacheError where it cannot be fetched."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name, sync and rename it; raises CacheError naming the place."""
        ...

    def remove(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        ...

    def describe(self) -> str:
        """The place in words, for messages; free of credentials."""
        ...


class FileMissing(OSError):
    """A listed file that is known not to be had; its text says why, in words that go on from the file's name."""
