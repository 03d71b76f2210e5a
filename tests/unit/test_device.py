"""Running out of memory is recognized whoever reports it, and no other error is taken for it."""

import pytest
import torch

from helpers.device import is_out_of_memory


def test_the_cpu_s_own_error_is_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert not isinstance(caught.value, torch.OutOfMemoryError) and is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("the card is full"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.94 GB)"),
    ],
)
def test_every_device_s_error_is_recognized(error: RuntimeError | MemoryError) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_not() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(caught.value)
