"""Reads the header of a safetensors file, and nothing of its tensors.

Standard library only, so that every file that a run will need is looked at in milliseconds, before anything is loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ModelError, Problem
from helpers.wrong_files import LENGTH_BYTES, again, wrong_content

LONGEST_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library."""


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
    if found := wrong_content(path):
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


def _cut_short(path: Path, *, has: int, needs: int) -> BrokenFileError:
    reason = f"it is cut short: {has:,} of {needs:,} bytes are there"
    return BrokenFileError(path, reason=reason, fix=again(path))


def _entry(said: Any) -> TensorEntry:
    start, end = (int(offset) for offset in said["data_offsets"])
    if not 0 <= start <= end:
        raise ValueError(f"data_offsets {said['data_offsets']}")
    return TensorEntry(dtype=str(said["dtype"]), shape=tuple(int(edge) for edge in said["shape"]), start=start, end=end)
