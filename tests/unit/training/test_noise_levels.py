"""The loss is told by noise level, the same however samples are spread over batches and ranks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from helpers.config.options.training import ObjectiveOptions
from helpers.data.types import Bucket, Size
from helpers.dataloader.sampler import SampleOrder
from helpers.models.flow_matching import sample_sigma
from helpers.reporting.events import SigmaLoss
from helpers.training.noise_levels import describe_shift, losses_by_sigma, sigma_quantiles, sums_by_sigma

EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)
SIGMAS = torch.tensor([0.1, 0.2, 0.3, 0.9, 1.0])
LOSSES = torch.tensor([1.0, 3.0, 5.0, 7.0, 8.0])


def order_of(edges_px: Sequence[int]) -> SampleOrder:
    """Square images, 100 of each size."""
    images = np.arange(100)
    buckets = [Bucket(dataset_id=f"{edge}", size=Size(edge, edge), images=images, repeats=0) for edge in edges_px]
    return SampleOrder(buckets, seed=0, batch_size=1, world_size=1)


def quantiles(*, edges_px: Sequence[int] = (512,), **objective: Any) -> tuple[float, ...]:
    return sigma_quantiles(ObjectiveOptions(**objective), order=order_of(edges_px), model_shift=3.0)


def told_of(sums: torch.Tensor, *, ranks: int = 1) -> tuple[SigmaLoss, ...]:
    return losses_by_sigma(sums.flatten().tolist(), edges=EDGES, ranks=ranks)


def test_each_range_has_the_means_of_its_samples() -> None:
    told = told_of(sums_by_sigma(LOSSES, SIGMAS, edges=EDGES))
    assert [(each.low, each.high, each.loss, each.samples) for each in told] == [
        (0.0, 0.25, 2.0, 2),
        (0.25, 0.5, 5.0, 1),
        (0.75, 1.0, 7.5, 2),
    ]
    assert [each.sigma for each in told] == pytest.approx([0.15, 0.3, 0.95])


def test_ranks_are_told_of_together() -> None:
    first, second = (sums_by_sigma(LOSSES[part], SIGMAS[part], edges=EDGES) for part in (slice(2), slice(2, 5)))
    whole = told_of(sums_by_sigma(LOSSES, SIGMAS, edges=EDGES))
    for one, other in zip(told_of((first + second) / 2, ranks=2), whole, strict=True):
        assert (one.samples, one.loss) == (other.samples, pytest.approx(other.loss))


def test_a_loss_that_is_no_number_stays_in_its_range() -> None:
    told = told_of(sums_by_sigma(torch.tensor([torch.nan, 2.0]), SIGMAS[[0, 3]], edges=EDGES))
    assert told[-1] == SigmaLoss(low=0.75, high=1.0, loss=2.0, sigma=pytest.approx(0.9), samples=1)


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "mode", "cosmap", "beta"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_each_range_gets_a_quarter_of_the_samples(sampling: str, shift: float) -> None:
    objective = ObjectiveOptions(timestep_sampling=sampling)
    edges = quantiles(timestep_sampling=sampling, flow_shift=shift)
    drawn = sample_sigma(torch.Generator().manual_seed(1), objective=objective, shift=shift, shape=(10_000,))
    shares = [((drawn > low) & (drawn <= high)).float().mean().item() for low, high in pairwise(edges)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_the_quantiles_of_a_logit_normal_are_those_of_the_books() -> None:
    assert quantiles() == (0.0, 0.34, 0.5, 0.66, 1.0)  # sigmoid(±0.6745)
    assert quantiles(flow_shift=3.0) == quantiles(flow_shift="model") == (0.0, 0.6, 0.75, 0.85, 1.0)


def test_the_quantiles_are_of_all_buckets_together() -> None:
    both = quantiles(edges_px=(256, 1024), flow_shift="auto")
    small, large = quantiles(edges_px=(256,), flow_shift="auto"), quantiles(edges_px=(1024,), flow_shift="auto")
    assert (small, large) == (quantiles(flow_shift=1.0), quantiles(flow_shift=3.0))
    objective = ObjectiveOptions()
    generator = torch.Generator().manual_seed(1)
    drawn = torch.cat(
        [sample_sigma(generator, objective=objective, shift=each, shape=(10_000,)) for each in (1.0, 3.0)]
    )
    shares = [((drawn > low) & (drawn <= high)).float().mean().item() for low, high in pairwise(both)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_what_a_shift_without_a_number_comes_to_is_told() -> None:
    def told(shift: float | str, *edges_px: int) -> str:
        return describe_shift(ObjectiveOptions(flow_shift=shift), order=order_of(edges_px), model_shift=3.0)

    assert told(2.0, 512) == ""
    assert told("model", 512) == "noise levels: logit_normal, shifted by 3 (FLOW_SHIFT=model)"
    assert told("auto", 1024, 512) == "noise levels: logit_normal, shifted by 1.5 to 3 (FLOW_SHIFT=auto)"


@pytest.mark.parametrize("settings", [{"logit_std": 1e-3}, {"logit_mean": 30.0}, {"logit_mean": -30.0}])
def test_ranges_that_fall_together_are_one(settings: dict[str, Any]) -> None:
    edges = quantiles(**settings)
    assert all(low < high for low, high in pairwise(edges))
    assert (edges[0], edges[-1]) == (0.0, 1.0)
