"""The average is the one in the books, looks back as far at any interval, and lends itself without losing a bit."""

from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.errors import ModelError
from helpers.training.optim.ema import AVERAGES, Ema, decay_at


def weights_of(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.ones(3, dtype=dtype)), "b": nn.Parameter(torch.zeros(2, 2, dtype=dtype))}


def drawn(average: Ema, weights: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    with average.applied():
        return {name: weight.detach().clone() for name, weight in weights.items()}


def test_it_is_the_weighted_mean_of_all_that_the_weights_have_been() -> None:
    weights = weights_of()
    average = Ema(weights, decay=0.5, interval=1, device="cpu")
    expected = torch.ones(3)
    for step in range(1, 30):
        weights["a"].data.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(drawn(average, weights)["a"], expected)
    assert weights["a"].tolist() == [29.0] * 3


def test_it_follows_quickly_at_first() -> None:
    assert decay_at(1, decay=0.999) == 2 / 11
    assert decay_at(100_000, decay=0.999) == 0.999


def test_it_looks_back_as_far_when_it_is_updated_seldom() -> None:
    found = []
    for interval in (1, 10):
        weights = weights_of()
        average = Ema(weights, decay=0.9, interval=interval, device="cpu")
        weights["a"].data.fill_(2.0)
        for step in range(1000, 1020):
            average.update(step + 1)
        found.append(drawn(average, weights)["a"])
    torch.testing.assert_close(found[0], found[1])
    assert 1.8 < found[0][0] < 1.9


@pytest.mark.parametrize("device", ["cpu", "accelerator"])
def test_bf16_weights_have_an_fp32_average_and_come_back_to_the_bit(device: str) -> None:
    weights = weights_of(torch.bfloat16)
    average = Ema(weights, decay=0.999, interval=1, device=device)
    for step in range(100_000, 101_000):
        weights["a"].data.fill_(1.5)
        average.update(step)
    assert 1.30 < drawn(average, weights)["a"][0] < 1.33
    assert weights["a"].tolist() == [1.5] * 3


def test_it_goes_on_from_what_was_saved(tmp_path: Path) -> None:
    weights = weights_of()
    average = Ema(weights, decay=0.9, interval=1, device="cpu")
    weights["a"].data.fill_(1.7)
    average.update(5)
    average.save(tmp_path)
    again = Ema(weights, decay=0.9, interval=1, device="cpu")
    again.load(tmp_path)
    for each in (average, again):
        each.update(6)
    assert torch.equal(drawn(average, weights)["a"], drawn(again, weights)["a"])
    other = Ema({"c": weights["a"]}, decay=0.9, interval=1, device="cpu")
    with pytest.raises(ModelError, match=r"ema\.safetensors does not match the run.*USE_EMA=false"):
        other.load(tmp_path)
    (tmp_path / AVERAGES).unlink()
    other.load(tmp_path)
    assert drawn(other, {"c": weights["a"]})["c"].tolist() == weights["a"].tolist()


def test_it_takes_in_every_so_manieth_step_and_no_other() -> None:
    weights = weights_of()
    average = Ema(weights, decay=0.5, interval=4, device="cpu")
    changed = []
    for step in range(1, 13):
        weights["a"].data.fill_(float(step))
        before = drawn(average, weights)["a"]
        average.update(step)
        if not torch.equal(drawn(average, weights)["a"], before):
            changed.append(step)
    assert changed == [4, 8, 12]
