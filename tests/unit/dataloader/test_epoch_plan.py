"""The plan says what becomes of each bucket, small ones above all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.types import Bucket, Size
from helpers.dataloader.epoch_plan import first_epoch
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position


def order_of(*buckets: tuple[int, int], batch_size: int) -> SampleOrder:
    made = [Bucket("photos", Size(512, 64 * number), np.arange(n), r) for number, (n, r) in enumerate(buckets, 1)]
    return SampleOrder(made, seed=0, batch_size=batch_size, world_size=1)


def test_the_plan_names_each_bucket_and_how_its_batches_are_filled() -> None:
    order = order_of((3, 0), (8, 1), (9, 0), (1200, 0), batch_size=8)
    assert [str(plan) for plan in first_epoch(order)] == [
        "photos 512x64: 3 images, 1 batch; fewer than the 8 of a batch, which shows each 2.67 times",
        "photos 512x128: 8 images, each 2 times, 2 batches",
        "photos 512x192: 9 images, 2 batches; the last is filled with 7 of the next epoch's",
        "photos 512x256: 1,200 images, 150 batches",
    ]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)), min_size=1, max_size=4), st.integers(1, 8))
def test_the_plan_is_what_the_first_epoch_does(buckets: list[tuple[int, int]], batch_size: int) -> None:
    order = order_of(*buckets, batch_size=batch_size)
    of_batches = [order.batch_at(Position(0, batch))[0].bucket for batch in range(order.batches_in_epoch(0))]
    assert [plan.batches for plan in first_epoch(order)] == np.bincount(of_batches, minlength=len(buckets)).tolist()
