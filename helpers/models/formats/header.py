"""Reads what a safetensors file says of itself, and what a file is that is not one: nothing of its tensors is read.

Standard library only, so that every file that a run will need is looked at in milliseconds, before anything is loaded.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ModelError, Problem

LENGTH_BYTES = 8
LONGEST_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""

BEGINNING_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
BLOBS = "blobs"
"""The folder in which the hub's cache keeps what its snapshots link to."""


class BrokenFileError(ModelError):
    """A file that is not what its name says, or not all of it."""

    def __init__(self, path: Path, *, reason: str, fix: str) -> None:
        self.path, self.reason, self.fix = path, reason, fix
        super().__init__(f"{path} cannot be read as tensors: {reason}; {fix}.")

    def problem(self, option: str) -> Problem:
        """As one of all the problems of a run; option: the setting that names the file, or the folder it lies in."""
        return Problem(option=option, value=str(self.path), reason=self.reason, fix=self.fix)


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """A tensor of a file: `dtype` by the format's names, such as `BF16`; its bytes begin and end after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a safetensors file; data_start: the byte at which the tensors begin."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file that is as long as it says; raises BrokenFileError for any other file."""
    if found := what_else(path):
        raise BrokenFileError(path, reason=found[0], fix=found[1])
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        data_start = LENGTH_BYTES + length
        if not 0 < length <= LONGEST_HEADER_BYTES:
            reason = "it does not begin like a safetensors file"
            raise BrokenFileError(path, reason=reason, fix="name a .safetensors file, or download it again")
        if data_start > size:
            raise _cut_short(path, has=size, needs=data_start)
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        tensors = {name: _entry(said) for name, said in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(path, reason=f"its header is damaged: {error!r}", fix=again(path)) from error
    end = data_start + max((entry.end for entry in tensors.values()), default=0)
    if end > size:
        raise _cut_short(path, has=size, needs=end)
    if end < size:
        reason = f"it is damaged: it has {size:,} bytes, and by its own header {end:,}"
        raise BrokenFileError(path, reason=reason, fix=again(path))
    return Header(tensors=tensors, metadata=metadata, data_start=data_start)


def what_else(path: Path) -> tuple[str, str] | None:
    """Why a file holds nothing that belongs to a model, and the fix; None where its beginning does not tell.

    Of text files too, such as a config: git-lfs, a failed download and an unfinished copy may leave any of them.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            beginning = file.read(BEGINNING_BYTES)
    except OSError as error:
        dangling = path.is_symlink() and not path.exists()
        reason = f"it is a link to {path.readlink()}, which is not there" if dangling else f"{error.strerror}"
        return reason, again(path)
    if size == 0:
        return "it is empty", again(path)
    if beginning.startswith(LFS_POINTER):
        return f"it is a git-lfs pointer of {size} bytes, not the file itself", _lfs_fix(path)
    if beginning.lstrip().lower().startswith(PAGE_STARTS):
        fix = f"{again(path)}; for a gated model log in first, with `hf auth login`"
        return "it is a web page, not the file itself", fix
    if beginning.startswith(b"GGUF"):
        return "it is a GGUF file, which cannot be trained", "name the model's .safetensors file, or a folder or hub id"
    if beginning.startswith(PICKLE_STARTS) and beginning[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        reason = "it is a PyTorch file (.ckpt, .bin, .pt), which may run code and is never opened"
        return reason, "name a .safetensors file"
    if not beginning.strip(b"\0"):
        return "it begins with zeros: a download that was never finished", again(path)
    return None


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what git leaves in place of a large one where git-lfs is not there."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _lfs_fix(path: Path) -> str:
    folder = next((each for each in path.absolute().parents if (each / ".git").exists()), path.absolute().parent)
    return f"install git-lfs, then run: git -C {shlex.quote(str(folder))} lfs pull"


def again(path: Path) -> str:
    """The fix for a file that was not downloaded as it should be."""
    blob = path.resolve()
    if blob.parent.name == BLOBS:
        return f"delete {blob}: the next start downloads it again"
    return "download it again"


def _cut_short(path: Path, *, has: int, needs: int) -> BrokenFileError:
    reason = f"it is cut short: {has:,} of {needs:,} bytes are there"
    return BrokenFileError(path, reason=reason, fix=again(path))


def _entry(said: Any) -> TensorEntry:
    start, end = (int(offset) for offset in said["data_offsets"])
    if not 0 <= start <= end:
        raise ValueError(f"data_offsets {said['data_offsets']}")
    return TensorEntry(dtype=str(said["dtype"]), shape=tuple(int(edge) for edge in said["shape"]), start=start, end=end)
