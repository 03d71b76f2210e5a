"""Reads the header of a safetensors file without its tensors.

Standard library only, so that all of a run's files are checked in milliseconds, before anything is loaded.
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
    """A file that is damaged, incomplete or of another format."""

    def __init__(self, path: Path, *, reason: str, fix: str) -> None:
        self.path, self.reason, self.fix = path, reason, fix
        super().__init__(f"{path} cannot be read as tensors: {reason}; {fix}.")

    def problem(self, option: str) -> Problem:
        """This error as a `Problem`; option: the setting that names the file or its folder."""
        return Problem(option=option, value=str(self.path), reason=self.reason, fix=self.fix)


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """A tensor in a file: `dtype` as in the file, such as `BF16`; `start` and `end` in bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a safetensors file; data_start: the offset of the tensors, in bytes."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_start: int


def read_header(path: Path) -> Header:
    """The header of a complete safetensors file; raises BrokenFileError for any other file."""
    if found := wrong_content(path):
        raise BrokenFileError(path, reason=found[0], fix=found[1])
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        data_start = LENGTH_BYTES + length
        if not 0 < length <= LONGEST_HEADER_BYTES:
            reason = "it does not start like a safetensors file"
            raise BrokenFileError(path, reason=reason, fix="name a .safetensors file, or download it again")
        if data_start > size:
            raise _cut_short(path, has=size, needs=data_start)
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        tensors = {name: _entry(entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BrokenFileError(path, reason=f"its header is damaged: {error!r}", fix=again(path)) from error
    end = data_start + max((entry.end for entry in tensors.values()), default=0)
    if end > size:
        raise _cut_short(path, has=size, needs=end)
    if end < size:
        reason = f"it is damaged: it has {size:,} bytes, but {end:,} by its own header"
        raise BrokenFileError(path, reason=reason, fix=again(path))
    return Header(tensors=tensors, metadata=metadata, data_start=data_start)


def _cut_short(path: Path, *, has: int, needs: int) -> BrokenFileError:
    reason = f"it is cut short: {has:,} of {needs:,} bytes are there"
    return BrokenFileError(path, reason=reason, fix=again(path))


def _entry(entry: Any) -> TensorEntry:
    start, end = (int(offset) for offset in entry["data_offsets"])
    if not 0 <= start <= end:
        raise ValueError(f"data_offsets {entry['data_offsets']}")
    shape = tuple(int(edge) for edge in entry["shape"])
    return TensorEntry(dtype=str(entry["dtype"]), shape=shape, start=start, end=end)
