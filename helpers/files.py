"""Files and folders that appear complete or not at all, whenever the machine stops.

Everything is written beside its place as a hidden `.NAME.partial-…`, and renamed once it is complete.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

PARTIAL_FILES = ".*.partial-*"
"""Glob of what a killed writer leaves behind."""


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Write the file this yields; at the end it takes the place of `path`, and the permissions of an older one there.

    durable: return once it is on the disk. Without, a machine that stops may lose the new content with the old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        partial.touch(exist_ok=False)
        if path.exists():
            shutil.copymode(path, partial)
        yield partial
        if durable:
            sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def atomic_write(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` write the file; see `atomic_file`. Returns `path`."""
    with atomic_file(path) as partial:
        write(partial)
    return path


def atomic_write_text(path: Path, text: str) -> None:
    """Write a small text that is rewritten during a run, without waiting for the disk: readers never see half of it.

    Characters that UTF-8 cannot hold, as of file names that are not UTF-8, become question marks.
    """
    with atomic_file(path, durable=False) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill the folder this yields; at the end it takes the place of `path`, or of an older folder there.

    An exception leaves everything as it was. A killed process leaves the partial folder and, if it was killed between
    the two renames of a replacement, the older folder as `.NAME.replaced`: see `clear_leftovers`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        partial.mkdir()
        yield partial
        _sync_folder(partial)
        replaced = path.with_name(f".{path.name}.replaced")
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        sync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def clear_leftovers(parent: Path, *, name_pattern: str) -> list[Path]:
    """Delete what killed writers of folders like `name_pattern` left in `parent`, and restore what one was replacing.

    Returns the partial folders that were deleted. Call it only while nothing is being written there.
    """
    for replaced in parent.glob(f".{name_pattern}.replaced"):
        original = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))
        if original.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(original)
    partial = sorted(parent.glob(f".{name_pattern}.partial-*"))
    for folder in partial:
        shutil.rmtree(folder)
    return partial


def remove_folder(path: Path) -> None:
    """Delete a folder so that a kill halfway leaves no part of it under its name."""
    leaving = path.with_name(f".{path.name}.partial-leaving")
    path.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def sync(path: Path) -> None:
    """Return once the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        sync(file)
    sync(folder)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{uuid4().hex[:8]}{path.suffix}")
