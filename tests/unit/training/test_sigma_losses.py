"""The loss is told by noise level, the same however samples are spread over batches and ranks."""

import pytest
import torch

from helpers.reporting.events import SigmaLoss
from helpers.training.sigma_losses import losses_by_sigma, sums_by_sigma

SIGMAS = torch.tensor([0.1, 0.2, 0.25, 0.9, 1.0])
LOSSES = torch.tensor([1.0, 3.0, 5.0, 7.0, 8.0])


def test_each_range_has_the_means_of_its_samples() -> None:
    told = losses_by_sigma(sums_by_sigma(LOSSES, SIGMAS).flatten().tolist(), ranks=1)
    assert [(each.low, each.high, each.loss, each.samples) for each in told] == [
        (0.0, 0.25, 2.0, 2),
        (0.25, 0.5, 5.0, 1),
        (0.75, 1.0, 7.5, 2),
    ]
    assert [each.sigma for each in told] == pytest.approx([0.15, 0.25, 0.95])


def test_ranks_are_told_of_together() -> None:
    mean = (sums_by_sigma(LOSSES[:2], SIGMAS[:2]) + sums_by_sigma(LOSSES[2:], SIGMAS[2:])) / 2
    whole = losses_by_sigma(sums_by_sigma(LOSSES, SIGMAS).flatten().tolist(), ranks=1)
    for one, other in zip(losses_by_sigma(mean.flatten().tolist(), ranks=2), whole, strict=True):
        assert (one.samples, one.loss) == (other.samples, pytest.approx(other.loss))


def test_a_loss_that_is_no_number_stays_in_its_range() -> None:
    told = losses_by_sigma(sums_by_sigma(torch.tensor([torch.nan, 2.0]), SIGMAS[[0, 3]]).flatten().tolist(), ranks=1)
    assert told[-1] == SigmaLoss(low=0.75, high=1.0, loss=2.0, sigma=pytest.approx(0.9), samples=1)
