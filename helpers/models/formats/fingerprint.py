"""Hashes of a model's files, for cache keys; cheap enough to compute at every start."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from helpers.models.formats.safetensors import LazyTensor

HASH_BYTES = 16
WHOLE_BELOW_BYTES = 32 << 20
SAMPLES, SAMPLE_BYTES = 64, 64 << 10
TENSOR_SAMPLE_BYTES = 16 << 10


def fingerprint(*facts: str) -> str:
    """A hash, 32 hex digits, of a sequence of strings."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for fact in facts:
        digest.update(f"{len(fact)}:{fact};".encode())
    return digest.hexdigest()


def config_fingerprint(config: dict[str, Any]) -> str:
    """The hash of a model's config.json, without the entries about who saved it, where and when."""
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key != "transformers_version"}
    return fingerprint(json.dumps(kept, sort_keys=True))


def files_fingerprint(files: Iterable[Path]) -> str:
    """The hash of files' names, sizes and content; their folders and dates do not matter.

    From a file over 32 MiB it reads the first and last 64 KiB (the safetensors header is at the start) and 62 evenly
    spaced pieces between them: training changes all of a model's weights, so any piece shows a change.
    """
    return fingerprint(*(fact for file in sorted(files, key=lambda file: file.name) for fact in _facts(file)))


def tensors_fingerprint(file: Path, names: Mapping[str, str]) -> str:
    """The hash of some tensors of a safetensors file, hashed by their new `names`; file positions do not matter.

    If they exceed 32 MiB in total, only the first and last 16 KiB of each tensor are read.
    """
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    with _Stored(file) as stored:
        is_small = sum(stored.size_bytes(name) for name in names) <= WHOLE_BELOW_BYTES
        for name in sorted(names, key=names.__getitem__):
            digest.update(f"{names[name]} {stored.header[name]['dtype']} {stored.header[name]['shape']};".encode())
            for piece in stored.pieces(name, whole=is_small):
                digest.update(piece)
    return digest.hexdigest()


def content_fingerprint(tensors: Mapping[str, LazyTensor]) -> str:
    """The hash of tensors' names, shapes, dtypes and content, independent of how they are split into files.

    If they exceed 32 MiB in total, only the first and last 16 KiB of each tensor are read.
    """
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    is_small = sum(each.size_bytes for each in tensors.values()) <= WHOLE_BELOW_BYTES
    with ExitStack() as stack:
        files: dict[Path, _Stored] = {}
        for name in sorted(tensors):
            digest.update(f"{name} {list(tensors[name].shape)};".encode())
            for planned in tensors[name].stored or (tensors[name],):
                digest.update(f"{planned.dtype};".encode())
                if planned.origin is None:
                    digest.update(_made(planned, whole=is_small))
                    continue
                path, theirs = planned.origin
                if path not in files:
                    files[path] = stack.enter_context(_Stored(path))
                for piece in files[path].pieces(theirs, whole=is_small):
                    digest.update(piece)
    return digest.hexdigest()


class _Stored:
    """A safetensors file opened to read pieces of its tensors."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        if hasattr(os, "posix_fadvise"):  # else readahead after each piece would read most of the file
            os.posix_fadvise(self._stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        self._start = int.from_bytes(self._stream.read(8), "little")
        self.header: dict[str, Any] = json.loads(self._stream.read(self._start))

    def __enter__(self) -> "_Stored":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def size_bytes(self, name: str) -> int:
        start, end = self.header[name]["data_offsets"]
        return end - start

    def pieces(self, name: str, *, whole: bool) -> Iterator[bytes]:
        """All bytes of a tensor, or the first and last 16 KiB, which may overlap."""
        start, end = (8 + self._start + offset for offset in self.header[name]["data_offsets"])
        at_once = end - start if whole else min(TENSOR_SAMPLE_BYTES, end - start)
        for place in (start,) if whole else (start, end - at_once):
            self._stream.seek(place)
            yield self._stream.read(at_once)


def _made(planned: LazyTensor, *, whole: bool) -> bytes:
    """The same for a tensor that is not in a file."""
    content = planned.make().detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return content if whole else content[:TENSOR_SAMPLE_BYTES] + content[-TENSOR_SAMPLE_BYTES:]


def _facts(file: Path) -> tuple[str, str, str]:
    size = file.stat().st_size
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    with file.open("rb") as stream:
        if size <= WHOLE_BELOW_BYTES:
            digest.update(stream.read())
        else:
            for number in range(SAMPLES):
                stream.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return file.name, str(size), digest.hexdigest()
