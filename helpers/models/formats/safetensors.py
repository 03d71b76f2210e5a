"""Writes and reads tensors one at a time; the safetensors library's writer collects all of them in memory first.

A transformer with 8 billion parameters and its optimizer state take 96 GB on an accelerator. Written one tensor at a
time, they do not need to fit into the machine's memory. The files are standard safetensors files.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.header import read_header
from helpers.wrong_files import LENGTH_BYTES

FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in FORMATS.items()}
ALIGNMENT = 8
HASH_TO_COME = f"0x{'-' * 64}"
"""A placeholder in a header's metadata; `write_tensors` replaces it by the SHA-256 of the tensor data, as `0x…`."""


@dataclass(frozen=True, kw_only=True)
class LazyTensor:
    """A tensor with known shape and dtype, loaded or computed only when `make` is called.

    origin: the file that holds its unchanged content, and its name there. stored: the tensors that `make` computes it
    from, if any.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    origin: tuple[Path, str] | None = None
    stored: tuple["LazyTensor", ...] = ()

    @property
    def size_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


Opened = tuple[dict[str, LazyTensor], dict[str, str]]
"""The lazy tensors of files by name, and the metadata of their headers."""


def lazy(tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    """Existing tensors as lazy ones, with the values they have when they are written."""
    return {
        name: LazyTensor(dtype=tensor.dtype, shape=tuple(tensor.shape), make=tensor.detach)
        for name, tensor in tensors.items()
    }


def planned_from(file: Any, *, prefix: str = "", path: Path | None = None) -> dict[str, LazyTensor]:
    """The lazy tensors of an `opened` file whose names start with `prefix`, by the rest of the name.

    path: the file's path, to set the tensors' `origin`.
    """
    found = {}
    for name in tuple(file.keys()):
        if name.startswith(prefix):
            view = file.get_slice(name)
            if view.get_dtype() not in DTYPES:
                raise ModelError(f"The tensor {name} has the dtype {view.get_dtype()}, which is not supported.")
            found[name.removeprefix(prefix)] = LazyTensor(
                dtype=DTYPES[view.get_dtype()],
                shape=tuple(view.get_shape()),
                make=partial(file.get_tensor, name),
                origin=None if path is None else (path, name),
            )
    return found


@contextmanager
def open_all(files: Iterable[Path], *, prefix: str = "") -> Iterator[Opened]:
    """The tensors of several files whose names start with `prefix`, see `planned_from`, and their headers' metadata."""
    with ExitStack() as stack:
        tensors: dict[str, LazyTensor] = {}
        metadata: dict[str, str] = {}
        for path in files:
            file = stack.enter_context(opened(path))
            tensors |= planned_from(file, prefix=prefix, path=path)
            metadata |= file.metadata() or {}
        yield tensors, metadata


def write_tensors(path: Path, tensors: Mapping[str, Tensor | LazyTensor], *, metadata: Mapping[str, str]) -> None:
    """Write one safetensors file, with one tensor at a time in CPU memory.

    Tensors are sorted by element size, largest first, so that each is aligned to its element size; then by name.
    """
    plans = lazy({name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)})
    plans |= {name: tensor for name, tensor in tensors.items() if isinstance(tensor, LazyTensor)}
    ordered = sorted(plans.items(), key=lambda named: (-named[1].dtype.itemsize, named[0]))
    header: dict[str, Any] = {"__metadata__": {**metadata, "format": "pt"}}
    end = 0
    for name, plan in ordered:
        start, end = end, end + plan.size_bytes
        header[name] = {"dtype": FORMATS[plan.dtype], "shape": list(plan.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    place = text.find(HASH_TO_COME.encode())
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
        file.write(text)
        for _, plan in ordered:
            copy = plan.make().to("cpu", copy=True)  # a storage that NumPy has seen can never be freed by FSDP
            content = copy.contiguous().reshape(-1).view(torch.uint8).numpy().data
            file.write(content)
            if place >= 0:
                digest.update(content)
        if place >= 0:
            file.seek(LENGTH_BYTES + place)
            file.write(f"0x{digest.hexdigest()}".encode())


def with_hash_to_come(metadata: Mapping[str, str]) -> dict[str, str]:
    """A header's metadata for a file with changed tensors: hashes become placeholders for new ones."""
    return {name: HASH_TO_COME if name.endswith("hash_sha256") else value for name, value in metadata.items()}


def copy_tensors(path: Path, *, into: Mapping[str, Tensor], fix: str) -> None:
    """Copy the file's tensors by name, one at a time; raises ModelError, ending in `fix`, if they do not match.

    Names, shapes and dtypes must agree, so that the copy is exact bit for bit.
    """
    with opened(path) as file:
        odd = sorted(set(file.keys()) ^ into.keys())
        if odd:
            raise ModelError(f"{path} does not match the run: only one of them has the tensor {odd[0]}. {fix}")
        for name, tensor in into.items():
            saved = file.get_tensor(name)
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                was, wanted = (f"{each.dtype} {list(each.shape)}" for each in (saved, tensor))
                raise ModelError(f"{path} holds {name} as {was}, but the run's is {wanted}. {fix}")
            tensor.detach().copy_(saved)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A memory-mapped safetensors file; raises ModelError for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        read_header(path)  # raises with a clearer reason, if it finds one
        raise ModelError(f"{path} cannot be read as a safetensors file: {error}; is it complete?") from error
