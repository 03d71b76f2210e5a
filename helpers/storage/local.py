"""Folders of this machine, read and written through the operating system.

An object-store library's local driver refuses a whole listing for one odd file name; the operating system does not.
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
"""Globs of what killed writers leave behind, of this version and of earlier ones."""

LEFTOVER_AGE_SECONDS = 3600.0


class LocalSource:
    """A person's folder, with the folders in it; links are followed, but never back into a folder they are in.

    Names that are not UTF-8 survive as Python's surrogate escapes.
    """

    def __init__(self, root: Path) -> None:
        self._start = os.path.join(root, "")

    def list(self) -> Iterator[Listed]:
        """Every file, in the order of their paths; raises DataError where a folder cannot be read.

        Hidden folders are not looked into; sockets, pipes and devices are left out. A link to nothing is listed with an
        empty tag.
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
            if identity in ancestors:  # a link that leads back into itself
                return
            with os.scandir(self._start + folder) as entries:
                # A slash sorts a folder where its files' paths belong: "a.png" before "a/b.png".
                names = sorted(entry.name + ("/" if _is_folder(entry) else "") for entry in entries)
        except OSError as error:
            raise DataError(
                f"cannot list the folder {self._start + folder!r}: {error.strerror}. "
                "Check that it exists and may be read, or change the dataset's instance_data_dir."
            ) from error
        for name in names:
            if name.endswith("/"):
                if not name.startswith("."):  # such as .git, which has a copy of every image of a cloned dataset
                    yield self._entries(folder + name, ancestors=(*ancestors, identity))
            elif listed := self._listed(folder + name):
                yield listed

    def _listed(self, path: str) -> Listed | None:
        try:
            status = os.stat(self._start + path)
        except OSError:  # gone since, or a link to nothing: reading it will say so
            return Listed(path, 0, "")
        if not stat.S_ISREG(status.st_mode):
            return None
        return Listed(path, status.st_size, str(status.st_mtime_ns))

    def read(self, path: str) -> bytes:
        """A file's bytes; raises OSError where it cannot be read."""
        with open(self._start + path, "rb", buffering=0) as file:
            return file.readall()

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of a file, or all of a shorter one; raises OSError."""
        with open(self._start + path, "rb", buffering=0) as file:
            return file.read(length)

    def describe(self) -> str:
        """The folder, for messages."""
        return f"the folder {self._start.rstrip('/')}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


class LocalCache:
    """A folder of whole files; made with the first file written."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cleaned = False

    @property
    def folder(self) -> Path:
        """See `CacheStore`."""
        return self._root

    def sizes(self) -> dict[str, int]:
        """The bytes of every complete file, by name; what a killed writer left is not complete."""
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
        """Whether the file is there."""
        return self.local_path(name).is_file()

    def local_path(self, name: str) -> Path:
        """Where the file can be mapped into memory."""
        return self._root / name

    def write(self, name: str, content: bytes) -> None:
        """Write a file, which appears complete or not at all; raises CacheError naming the folder."""
        try:
            self._remove_leftovers()
            atomic_write(self._root / name, lambda partial: partial.write_bytes(content))
        except OSError as error:
            megabytes = len(content) / 1e6
            raise CacheError(
                f"cannot write {name} ({megabytes:.1f} MB) in {self.describe()}: {error.strerror}. {FIX}"
            ) from error

    def _remove_leftovers(self) -> None:
        """Delete what writers killed long ago left behind; a living one takes seconds, not an hour."""
        if self._cleaned:
            return
        self._cleaned = True
        for leftover in (file for pattern in LEFTOVER_FILES for file in self._root.glob(pattern)):
            try:
                if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE_SECONDS:
                    leftover.unlink()
            except FileNotFoundError:  # its writer has finished, or another process cleaned first
                continue

    def remove(self, name: str) -> None:
        """Delete a file; it may be gone already."""
        self.local_path(name).unlink(missing_ok=True)

    def describe(self) -> str:
        """The folder, for messages."""
        return f"the folder {self._root}"


FIX = "Free some space there or let it be written to, or name another folder (cache_dir_vae, cache_dir or OUTPUT_DIR)."


def _file_size(path: Path) -> int | None:
    """A file's bytes; None for a folder, and for a file that another process has removed since it was listed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
