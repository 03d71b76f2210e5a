"""Files and folders that are there whole or not at all, whenever the machine stops."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a file beside `path`, which then takes its place; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.partial-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o666 & ~_umask())
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)
    return path


def atomic_write_text(path: Path, text: str) -> None:
    """Let `path` hold `text` from one moment to the next; what it held before stays until then."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill the folder this yields; at the end it stands as `path`, in place of an older one of that name.

    An exception leaves things as they were. A killed process leaves a hidden `.NAME.partial-…` and, if it was killed
    between the two renames of a replacement, the older one as `.NAME.replaced`: see `clear_leftovers`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        for file in partial.rglob("*"):
            sync(file)
        sync(partial)
        replaced = path.with_name(f".{path.name}.replaced")
        if path.exists():
            path.rename(replaced)
        partial.rename(path)
        sync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def clear_leftovers(parent: Path, *, name_pattern: str) -> list[Path]:
    """Delete what killed writers of folders like `name_pattern` left in `parent`, and put back what one had moved away.

    Returns the partial folders that were deleted. Nobody may be writing there.
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
    """Delete a folder so that, killed half-way, no part of it is left under its name."""
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


def _umask() -> int:
    """What is taken from the rights of new files; it can only be read by setting it."""
    umask = os.umask(0)
    os.umask(umask)
    return umask
