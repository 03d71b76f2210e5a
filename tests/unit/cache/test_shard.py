"""Compression gives back every bit it was given, and is worth its time on what encoders make."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from helpers.cache.shard import compress_planes, decompress_planes


@given(arrays("int16", array_shapes(max_dims=3, max_side=40), elements=st.integers(-(2**15), 2**15 - 1)))
def test_every_bit_pattern_comes_back(bits) -> None:
    tensor = torch.from_numpy(bits.copy()).view(torch.bfloat16)
    assert torch.equal(
        decompress_planes(compress_planes(tensor), shape=tuple(tensor.shape)).view(torch.int16),
        tensor.view(torch.int16),
    )


def test_all_65536_values_come_back_from_a_tensor_that_is_not_contiguous() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).reshape(256, 256).T
    back = decompress_planes(compress_planes(bits.view(torch.bfloat16)), shape=(256, 256))
    assert torch.equal(back.view(torch.int16), bits)


def test_activations_shrink_by_more_than_a_quarter() -> None:
    tensor = torch.randn(77, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert len(compress_planes(tensor)) < 0.7 * tensor.nbytes
