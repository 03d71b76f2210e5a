"""Blocks that wait in the processor's memory come in time, only they, and change no number."""

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.models.family import ModelComponents
from helpers.models.performance.offload import BlockOffloader, next_block
from helpers.models.sd3.transformer import blocks, predict
from tests.unit.models.stepped import CPU, given, gradients, loaded, same


@pytest.mark.parametrize(
    ("level", "bf16"),
    [
        ("no_change", False),
        ("no_change", True),
        ("int8-quanto", True),
        ("fp8-quanto", True),
        ("int4-quanto", True),
        ("int2-quanto", False),
    ],
)
def test_gradients_are_the_same_to_the_bit(level: str, bf16: bool, parts: ModelComponents) -> None:
    precision = {"base_model_precision": level}
    if bf16:
        precision |= {"mixed_precision": "bf16", "base_model_default_dtype": "bf16"}
    plain = gradients(*loaded(parts, **precision), bf16=bf16)
    denoiser, weights = loaded(parts, lambda each: BlockOffloader(blocks(each), device=CPU), waiting=3, **precision)
    for _ in range(2):
        assert same(gradients(denoiser, weights, bf16=bf16), plain)


class Row(nn.Module):
    """Five blocks that visit, computed again on the way back; and who was there after each came in."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(4, 4).requires_grad_(False) for _ in range(5)]
        visiting = BlockOffloader(self.blocks, device=CPU)
        self.seen: list[set[int | None]] = []
        for block in self.blocks:
            block.register_forward_pre_hook(lambda *_: self.seen.append(set(visiting.resident_blocks)))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = checkpoint(block, hidden, use_reentrant=False)
        return hidden


def test_two_blocks_at_the_most_are_there_and_the_next_one_is_on_its_way() -> None:
    """At the end of a way the last two stay for the way back."""
    row = Row()
    row(torch.ones(1, 4, requires_grad=True)).sum().backward()
    there = [{0, 1}, {1, 2}, {2, 3}, {3, 4}, {3, 4}]
    back = [{3, 4}, {2, 3}, {1, 2}, {0, 1}, {0, 1}]
    assert row.seen == there + back
    row(torch.ones(1, 4, requires_grad=True)).sum().backward()
    assert row.seen == 2 * (there + back)


def test_drawing_goes_round() -> None:
    row = Row()
    with torch.no_grad():
        row(torch.ones(1, 4))
    assert row.seen == [{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 0}]


def test_only_residents_take_the_rooms_and_the_others_are_at_home() -> None:
    row = Row()
    at_home = [block.weight for block in row.blocks]
    with torch.no_grad():
        row(torch.ones(1, 4))
    assert [number for number, block in enumerate(row.blocks) if block.weight is not at_home[number]] == [0, 4]
    assert all(torch.equal(block.weight, home) for block, home in zip(row.blocks, at_home, strict=True))


def test_a_block_that_nobody_expected_comes_too() -> None:
    for learning, previous, index in itertools.product((True, False), (None, 0, 1, 2, 3), range(4)):
        assert 0 <= next_block(index, previous=previous, count=4, learning=learning) < 4
    assert next_block(0, previous=None, count=1, learning=True) == 0


def test_names_frozen_numbers_and_adapters_are_where_they_were(parts: ModelComponents) -> None:
    plain, _ = loaded(parts)
    denoiser, weights = loaded(parts, lambda each: BlockOffloader(blocks(each)[-2:], device=CPU), waiting=2)
    predict(denoiser, *given())
    assert denoiser.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(denoiser.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    assert {id(weight) for weight in weights} == {id(each) for each in denoiser.parameters() if each.requires_grad}


def test_each_tensor_of_a_visiting_block_lies_where_cuda_s_own_allocator_would_put_it() -> None:
    """At multiples of 256 bytes from the room's beginning, which kernels rely on."""
    row = Row()
    with torch.no_grad():
        row(torch.ones(1, 4))
    for block in (row.blocks[0], row.blocks[4]):
        assert block.bias is not None
        assert block.bias.data_ptr() != block.weight.data_ptr()
        assert (block.bias.data_ptr() - block.weight.data_ptr()) % 256 == 0
