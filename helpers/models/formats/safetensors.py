"""Writes and reads tensors by name without ever holding them twice: safetensors' own writer gathers all of them first.

A transformer of 8 billion weights with its optimizer's memory is 96 GB on an accelerator. Written one tensor after the
other it passes through the machine's memory, which need not be so large; the file is one that every program opens.
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
"""Where a header's metadata says this, `write_tensors` puts the SHA-256 of all that follows the header, as `0x…`."""


@dataclass(frozen=True, kw_only=True)
class LazyTensor:
    """A tensor of which shape and dtype are known, and which is made only when its turn has come.

    origin: the file in which its content lies as it is, and its name there. stored: the tensors that `make` computes it
    from, where it does.
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
"""The tensors of files by name, none of them read yet, and what the files' headers say."""


def lazy(tensors: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    """Tensors that are there already, as they stand when they are written."""
    return {
        name: LazyTensor(dtype=tensor.dtype, shape=tuple(tensor.shape), make=tensor.detach)
        for name, tensor in tensors.items()
    }


def planned_from(file: Any, *, prefix: str = "", path: Path | None = None) -> dict[str, LazyTensor]:
    """The tensors of an `opened` file whose names begin with `prefix`, by the rest of the name; none is read yet.

    path: where the file is, for tensors that are to know their origin.
    """
    found = {}
    for name in tuple(file.keys()):
        if name.startswith(prefix):
            view = file.get_slice(name)
            if view.get_dtype() not in DTYPES:
                raise ModelError(f"The tensor {name} is of the dtype {view.get_dtype()}, which is not known here.")
            found[name.removeprefix(prefix)] = LazyTensor(
                dtype=DTYPES[view.get_dtype()],
                shape=tuple(view.get_shape()),
                make=partial(file.get_tensor, name),
                origin=None if path is None else (path, name),
            )
    return found


@contextmanager
def open_all(files: Iterable[Path], *, prefix: str = "") -> Iterator[Opened]:
    """The tensors of several files whose names begin with `prefix`, see `planned_from`, and what their headers say."""
    with ExitStack() as stack:
        tensors: dict[str, LazyTensor] = {}
        said: dict[str, str] = {}
        for path in files:
            file = stack.enter_context(opened(path))
            tensors |= planned_from(file, prefix=prefix, path=path)
            said |= file.metadata() or {}
        yield tensors, said


def write_tensors(path: Path, tensors: Mapping[str, Tensor | LazyTensor], *, metadata: Mapping[str, str]) -> None:
    """Write one safetensors file, holding one tensor at a time on the processor.

    Wide formats come first, so that each tensor begins at a multiple of its numbers' size; then by name.
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
            numbers = copy.contiguous().reshape(-1).view(torch.uint8).numpy().data
            file.write(numbers)
            if place >= 0:
                digest.update(numbers)
        if place >= 0:
            file.seek(LENGTH_BYTES + place)
            file.write(f"0x{digest.hexdigest()}".encode())


def with_hash_to_come(metadata: Mapping[str, str]) -> dict[str, str]:
    """A header's metadata for a file whose tensors have changed: where it has a hash, another is due."""
    return {name: HASH_TO_COME if name.endswith("hash_sha256") else value for name, value in metadata.items()}


def copy_tensors(path: Path, *, into: Mapping[str, Tensor], fix: str) -> None:
    """Copy the file's tensors by name, one at a time; raises ModelError, ending in `fix`, unless all are the same.

    The names, shapes and dtypes must agree, so that the copy is bit for bit what was written.
    """
    with opened(path) as file:
        odd = sorted(set(file.keys()) ^ into.keys())
        if odd:
            raise ModelError(f"{path} holds other tensors than the run's: {odd[0]} is only in one of the two. {fix}")
        for name, tensor in into.items():
            saved = file.get_tensor(name)
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                was, wanted = (f"{each.dtype} {list(each.shape)}" for each in (saved, tensor))
                raise ModelError(f"{path} holds {name} as {was}, but the run's is {wanted}. {fix}")
            tensor.detach().copy_(saved)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; raises ModelError where it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        read_header(path)  # which knows better what is wrong
        raise ModelError(f"{path} cannot be read as a safetensors file: {error}; is it whole?") from error
