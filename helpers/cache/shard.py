"""A shard: one safetensors file of many entries, each with a checksum.

An entry is a key and its tensors. In the file, a tensor is named `key/output`, or, if it is compressed,
`key/output/planes/77x4096` with its original shape. Each tensor's bytes have a checksum, and so does the header.
Compression is lossless and saves a third: a bf16 tensor's exponents, which are similar, are stored apart from the rest.
"""

import json
import math
import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUFFIX = ".safetensors"
FORMATS = {"F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8}
NAMES = {dtype: name for name, dtype in FORMATS.items()}
COMPRESSION_LEVEL = 3


class DamagedShard(Exception):
    """A shard that does not match its header; the message says how."""


class RawTensor(NamedTuple):
    """A tensor as stored in a shard."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.content)


class PlacedTensor(NamedTuple):
    """A tensor's position in a shard, in bytes from the start of the file, and the checksum it was written with."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int
    checksum: int

    @property
    def key(self) -> str:
        return self.name[:32]


class Layout(NamedTuple):
    """How to read the bytes of one output of an entry."""

    output: str
    dtype: str
    shape: tuple[int, ...]
    packed: bool


def raw_tensors(key: str, tensors: Mapping[str, Tensor], *, compress: bool) -> list[RawTensor]:
    """An entry's tensors (on the CPU, fp16 or bf16; only bf16 can be compressed) in the form they are written."""
    raw = []
    for output, tensor in tensors.items():
        if compress:
            content = compress_planes(tensor)
            shape = "x".join(map(str, tensor.shape))
            raw.append(RawTensor(f"{key}/{output}/planes/{shape}", "U8", (len(content),), content))
        else:
            content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
            raw.append(RawTensor(f"{key}/{output}", NAMES[tensor.dtype], tuple(tensor.shape), content))
    return raw


def shard_bytes(tensors: Sequence[RawTensor]) -> bytes:
    """The content of a shard's file."""
    checksums = [tensor.checksum for tensor in tensors]
    own = _header_checksum((*tensor[:3], checksum) for tensor, checksum in zip(tensors, checksums, strict=True))
    metadata = {"format": "pt", "header_crc32": f"{own:08x}", "crc32": "".join(f"{each:08x}" for each in checksums)}
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for tensor in tensors:
        start, end = end, end + len(tensor.content)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensor.content for tensor in tensors)])


def _header_checksum(tensors: Iterable[tuple[str, str, tuple[int, ...], int]]) -> int:
    """The checksum of a header's names, dtypes, shapes and checksums; positions follow from them."""
    return zlib.crc32("\n".join(map(str, tensors)).encode())


def read_header(path: Path) -> list[PlacedTensor]:
    """A shard's tensors; raises DamagedShard if it is truncated or its header cannot be read, or OSError."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + length > size:
            raise DamagedShard(f"is cut short: {size} bytes do not even hold its header")
        text = file.read(length)
    try:
        placed = _placed(json.loads(text), data_start=8 + length)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DamagedShard("has a header that cannot be read") from error
    expected = placed[-1].stop if placed else 8 + length
    if expected != size:
        raise DamagedShard(f"is cut short or too long: it has {size} of {expected} bytes")
    return placed


def _placed(header: dict, *, data_start: int) -> list[PlacedTensor]:
    """The header's tensors in the order of their bytes; raises ValueError, LookupError or others if it is malformed."""
    metadata = header.pop("__metadata__")
    checksums = metadata["crc32"]
    placed, end = [], 0
    for number, (name, entry) in enumerate(header.items()):
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if start != end or stop - start != math.prod(shape) * FORMATS[dtype].itemsize:
            raise ValueError(f"{name} does not fit its position")
        checksum = int(checksums[8 * number : 8 * number + 8], 16)
        placed.append(PlacedTensor(name, dtype, shape, data_start + start, data_start + stop, checksum))
        end = stop
    if int(metadata["header_crc32"], 16) != _header_checksum((*tensor[:3], tensor.checksum) for tensor in placed):
        raise ValueError("the header's checksum differs")
    return placed


def layout_of(name: str, *, dtype: str, shape: tuple[int, ...]) -> Layout:
    """The layout of the tensor of this name in a shard."""
    output, _, rest = name[33:].partition("/planes/")
    if not rest:
        return Layout(output, dtype, shape, packed=False)
    return Layout(output, "BF16", tuple(int(edge) for edge in rest.split("x")), packed=True)


def read_tensor(path: Path, *, start: int, length: int, layout: Layout) -> Tensor:
    """One tensor of a shard, memory-mapped unless it is compressed.

    The tensor keeps its mapping alive: the file may be deleted, and changing the tensor does not change the file.
    """
    first_page = start - start % mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), start - first_page + length, access=mmap.ACCESS_COPY, offset=first_page)
    if layout.packed:
        return decompress_planes(mapped[start - first_page :], shape=layout.shape)
    dtype = FORMATS[layout.dtype]
    count = length // dtype.itemsize
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=start - first_page).reshape(layout.shape)


def read_raw(path: Path, placed: Iterable[PlacedTensor]) -> list[RawTensor]:
    """Tensors of a shard in the form they were written, damaged or not."""
    content = path.read_bytes()
    return [RawTensor(one.name, one.dtype, one.shape, content[one.start : one.stop]) for one in placed]


def compress_planes(tensor: Tensor) -> bytes:
    """A bf16 tensor as bytes: the 8 exponent bits of every value, then sign and mantissa, each through zstd.

    The first 8 bytes hold the length of the first part. Every bit pattern survives, NaNs included.
    """
    import zstandard

    assert tensor.dtype == torch.bfloat16
    bits = tensor.contiguous().view(torch.int16).numpy().reshape(-1).view(np.uint16)
    rotated = (bits << 1) | (bits >> 15)  # sign, 8 exponent, 7 mantissa bits -> 8 exponent, 7 mantissa, sign
    compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
    exponents = compressor.compress((rotated >> 8).astype(np.uint8).tobytes())
    rest = compressor.compress(rotated.astype(np.uint8).tobytes())
    return len(exponents).to_bytes(8, "little") + exponents + rest


def decompress_planes(content: bytes | memoryview, *, shape: tuple[int, ...]) -> Tensor:
    """The bf16 tensor of this shape that was given to `compress_planes`."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor()
    split = 8 + int.from_bytes(content[:8], "little")
    exponents = _plane(decompressor.decompress(content[8:split]))
    rest = _plane(decompressor.decompress(content[split:]))
    rotated = (exponents << 8) | rest
    bits = (rotated >> 1) | (rotated << 15)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).reshape(shape)


def _plane(content: bytes) -> NDArray[np.uint16]:
    return np.frombuffer(content, dtype=np.uint8).astype(np.uint16)
