"""Writes and reads tensors by name without ever holding them twice: safetensors' own writer gathers all of them first.

A transformer of 8 billion weights with its optimiser's memory is 96 GB on an accelerator. Written one tensor after the
other it passes through the machine's memory, which need not be so large; the file is one that every program opens.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.errors import ModelError

FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> None:
    """Write one safetensors file, holding one tensor at a time on the processor.

    Wide formats come first, so that each tensor begins at a multiple of its numbers' size; then by name.
    """
    ordered = sorted(tensors.items(), key=lambda named: (-named[1].element_size(), named[0]))
    header: dict[str, Any] = {"__metadata__": {**metadata, "format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": FORMATS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, tensor in ordered:
            numbers = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(numbers.view(torch.uint8).numpy().data)


def copy_tensors(path: Path, *, into: Mapping[str, Tensor], cure: str) -> None:
    """Copy the file's tensors by name, one at a time; raises ModelError, ending in `cure`, unless all are the same.

    The names, shapes and number formats must agree, so that the copy is bit for bit what was written.
    """
    with opened(path) as file:
        odd = sorted(set(file.keys()) ^ into.keys())
        if odd:
            raise ModelError(f"{path} holds other tensors than the run's: {odd[0]} is only in one of the two. {cure}")
        for name, tensor in into.items():
            saved = file.get_tensor(name)
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                was, wanted = (f"{each.dtype} {list(each.shape)}" for each in (saved, tensor))
                raise ModelError(f"{path} holds {name} as {was}, but the run's is {wanted}. {cure}")
            tensor.detach().copy_(saved)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; raises ModelError where it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as tensors: {error}") from error
