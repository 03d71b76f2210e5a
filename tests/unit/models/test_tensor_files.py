"""Tensors written one by one make a file that safetensors reads, and come back to the bit or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from helpers.errors import ModelError
from helpers.models.formats.header import read_header
from helpers.models.formats.safetensors import copy_tensors, write_tensors

TENSORS = {
    "odd": torch.arange(3, dtype=torch.bfloat16),
    "transposed": torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).T,
    "nothing": torch.zeros(0, 5),
    "step": torch.tensor(7.0),
    "count": torch.tensor([2**40]),
    "flags": torch.tensor([True, False]),
    "ä weight": torch.full((2, 2), torch.pi, dtype=torch.float64),
}


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, TENSORS, metadata={"made_by": "test"})
    found = load_file(file)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype is tensor.dtype
        assert torch.equal(found[name], tensor), name
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"made_by": "test", "format": "pt"}


def test_they_are_copied_back_by_name_where_everything_agrees(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write_tensors(file, TENSORS, metadata={})
    into = {name: torch.zeros_like(tensor) for name, tensor in reversed(TENSORS.items())}
    copy_tensors(file, into=into, fix="")
    assert all(torch.equal(into[name], tensor) for name, tensor in TENSORS.items())
    for wrong in ({"odd": torch.zeros(3)}, {"odd": torch.zeros(4, dtype=torch.bfloat16)}):
        with pytest.raises(ModelError, match=r"holds odd as torch\.bfloat16 \[3\], but the run's.* Do this\."):
            copy_tensors(file, into=into | wrong, fix="Do this.")
    del into["odd"]
    with pytest.raises(ModelError, match="only one of them has the tensor odd"):
        copy_tensors(file, into=into, fix="")
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ModelError, match="cannot be read as tensors"):
        copy_tensors(file, into=into, fix="")


@pytest.mark.parametrize("length", range(8))
def test_numbers_begin_at_a_multiple_of_their_size_whatever_the_header_says(tmp_path: Path, length: int) -> None:
    """As in files of safetensors' own, which other programs map into memory and read where they lie."""
    file = tmp_path / "a.safetensors"
    write_tensors(file, TENSORS, metadata={"made_by": "x" * length})
    header = read_header(file)
    for name, entry in header.tensors.items():
        assert (header.data_start + entry.start) % TENSORS[name].dtype.itemsize == 0
