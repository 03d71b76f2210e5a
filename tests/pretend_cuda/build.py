"""Builds the library of the pretend device, once for each version of its source, of PyTorch and of the processor."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("pretend.cpp")
COMPILER = "g++"


def missing() -> str | None:
    """Why no library can be built here; None where it can, or has been."""
    if sys.platform != "linux":
        return "the pretend CUDA device is built on Linux only"
    if any((_torch_folder() / "lib" / f"libtorch_{kind}.so").exists() for kind in ("cuda", "hip")):
        return "this PyTorch is built for a real GPU, whose place the pretend CUDA device would take"
    if not library_file().is_file() and not shutil.which(COMPILER):
        return f"there is no {COMPILER} to build the pretend CUDA device with"
    return None


def library_file() -> Path:
    """Where the library lies, built or not: in the environment, outside the repository."""
    key = hashlib.sha256(SOURCE.read_bytes() + f"{_torch_version()} {os.uname().machine}".encode()).hexdigest()[:16]
    return Path(sys.prefix) / ".pretend-cuda" / f"pretend-{key}.so"


def build() -> Path:
    """The library, built (half a minute) unless it has been. Processes may build at the same time."""
    library = library_file()
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    part = library.with_name(f"{library.name}.{os.getpid()}")
    torch = _torch_folder()
    includes = (torch / "include", torch / "include/torch/csrc/api/include")
    subprocess.run(
        [
            *(COMPILER, "-std=c++20", "-O1", "-shared", "-fPIC"),
            *(f"-I{folder}" for folder in includes),
            *(str(SOURCE), "-o", str(part)),
            *(f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"),
        ],
        check=True,
    )
    part.replace(library)
    return library


def _torch_version() -> str:
    return version("torch")


def _torch_folder() -> Path:
    """PyTorch's folder, without importing it: the library has to be there first."""
    spec = find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
