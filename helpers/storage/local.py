"""Local folders, read and written with the functions of the operating system.

The local driver of an object-store library would reject a whole listing because of one unusual file name.
"""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from helpers.errors import CacheError, DataError
from helpers.files import PARTIAL_FILES, atomic_write
from helpers.storage.protocols import Listed

LEFTOVER_FILES = (PARTIAL_FILES, ".unfinished-*")
"""Globs of the files that killed writers leave behind, for this version and earlier ones."""

LEFTOVER_AGE_SECONDS = 3600.0


class LocalSource:
    """A folder of yours, with its subfolders; links are followed unless they lead back to a parent folder.

    Names that are not UTF-8 are kept as Python's surrogate escapes.
    """

    def __init__(self, root: Path) -> None:
        self._start = os.path.join(root, "")

    def list(self) -> Iterator[Listed]:
        """Every file, ordered by path; raises DataError if a folder cannot be read.

        Hidden folders, sockets, pipes and devices are left out. A broken link is listed with an empty tag.
        """
        walk = [self._entries("", ancestors=())]
        while walk:
            entry = next(walk[-1], None)
            if entry is None:
                walk.pop()
            elif isinstance(entry, Listed):
                yield entry
            else:
                walk.append(entry)

    def _entries(self, folder: str, *, ancestors: tuple[tuple[int, int], ...]) -> Iterator["Listed | Iterator"]:
        """The files of `folder` ("" or ending in a slash), and an iterator for each folder in it, by path."""
        try:
            status = os.stat(self._start + folder)
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:  # a link to a parent folder
                return
            with os.scandir(self._start + folder) as entries:
                # The slash sorts a folder by the paths of its files: "a.png" before "a/b.png".
                names = sorted(entry.name + ("/" if _is_folder(entry) else "") for entry in entries)
        except OSError as error:
            raise DataError(
                f"cannot list the folder {self._start + folder!r}: {error.strerror}. "
                "Check that it exists and is readable, or change the dataset's instance_data_dir."
            ) from error
        for name in names:
            if name.endswith("/"):
                if not name.startswith("."):  # such as .git, which holds a copy of every image of a cloned dataset
                    yield self._entries(folder + name, ancestors=(*ancestors, identity))
            elif listed := self._listed(folder + name):
                yield listed

    def _listed(self, path: str) -> Listed | None:
        try:
            status = os.stat(self._start + path)
        except OSError:  # deleted since, or a broken link: reading it raises the reason
            return Listed(path, 0, "")
        if not stat.S_ISREG(status.st_mode):
            return None
        return Listed(path, status.st_size, str(status.st_mtime_ns))

    def read(self, path: str) -> bytes:
        """A file's bytes; raises OSError if it cannot be read."""
        with open(self._start + path, "rb", buffering=0) as file:
            return file.readall()

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of a file, or all if it is shorter; raises OSError."""
        with open(self._start + path, "rb", buffering=0) as file:
            return file.read(length)

    def describe(self) -> str:
        """The folder, for messages."""
        return f"the folder {self._start.rstrip('/')}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


class LocalCache:
    """A folder of atomically written files; created with the first file."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cleaned = False

    @property
    def folder(self) -> Path:
        """See `CacheStore`."""
        return self._root

    def sizes(self) -> dict[str, int]:
        """The size in bytes of every complete file, by name; without leftovers of a killed writer."""
        try:
            with os.scandir(self._root) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise CacheError(f"cannot list {self.describe()}: {error.strerror}. {FIX}") from error
        sizes = {name: _file_size(self._root / name) for name in names}
        return {name: size for name, size in sizes.items() if size is not None}

    def is_here(self, name: str) -> bool:
        """Whether the file exists."""
        return self.local_path(name).is_file()

    def local_path(self, name: str) -> Path:
        """A path that can be memory-mapped."""
        return self._root / name

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically; raises CacheError naming the folder."""
        try:
            self._remove_leftovers()
            atomic_write(self._root / name, lambda partial: partial.write_bytes(content))
        except OSError as error:
            megabytes = len(content) / 1e6
            raise CacheError(
                f"cannot write {name} ({megabytes:.1f} MB) in {self.describe()}: {error.strerror}. {FIX}"
            ) from error

    def _remove_leftovers(self) -> None:
        """Delete old files of killed writers; a running writer takes seconds, not an hour."""
        if self._cleaned:
            return
        self._cleaned = True
        for leftover in (file for pattern in LEFTOVER_FILES for file in self._root.glob(pattern)):
            try:
                if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE_SECONDS:
                    leftover.unlink()
            except FileNotFoundError:  # its writer finished, or another process deleted it
                continue

    def remove(self, name: str) -> None:
        """Delete a file; it may already be deleted."""
        self.local_path(name).unlink(missing_ok=True)

    def describe(self) -> str:
        """The folder, for messages."""
        return f"the folder {self._root}"


FIX = "Free up space, make the folder writable, or set another folder (cache_dir_vae, cache_dir or OUTPUT_DIR)."


def _file_size(path: Path) -> int | None:
    """A file's size in bytes; None for a folder, or if another process deleted the file after it was listed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
