"""The mix of datasets over any run of epochs is what their entries say, to a batch."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.types import Bucket, Size
from helpers.dataloader.epoch_plan import first_epoch, mix
from helpers.dataloader.mix import PARTS, parts_per_epoch
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position

PROBABILITIES = st.sampled_from([0.05, 0.1, 0.3, 0.5, 1.0, 1.5, 3.0])


def bucket(dataset_id: str, images: int, *, edge: int = 64, **amounts: float) -> Bucket:
    return Bucket(dataset_id, Size(edge, 64), np.arange(images), **{"repeats": 0, **amounts})  # type: ignore[arg-type]


@st.composite
def mixed_buckets(draw: st.DrawFn) -> list[Bucket]:
    found = []
    for number in range(draw(st.integers(1, 3))):
        amounts = {"repeats": draw(st.integers(0, 2)), "probability": draw(PROBABILITIES)}
        sizes = draw(st.lists(st.integers(1, 17), min_size=1, max_size=3))
        found += [bucket(f"set-{number}", images, edge=64 + edge, **amounts) for edge, images in enumerate(sizes)]
    if draw(st.booleans()):
        found.append(bucket("endless", draw(st.integers(1, 40)), probability=draw(PROBABILITIES), ignore_epochs=True))
    return found


@settings(max_examples=100, deadline=None)
@given(mixed_buckets(), st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 6))
def test_after_any_number_of_epochs_each_bucket_is_within_a_batch_of_its_share(
    buckets: list[Bucket], seed: int, batch_size: int, epochs: int
) -> None:
    order = SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=1)
    shown: Counter[int] = Counter()
    by_image: dict[int, Counter[int]] = {number: Counter() for number in range(len(buckets))}
    for epoch in range(epochs):
        for batch in range(order.batches_in_epoch(epoch)):
            for sample in order.batch_at(Position(epoch, batch)):
                shown[sample.bucket] += 1
                by_image[sample.bucket][sample.image] += 1
    for number, (each, due) in enumerate(zip(buckets, order.bucket_images_per_epoch, strict=True)):
        assert 0 <= shown[number] - epochs * due < batch_size + 1e-5
        counts = [by_image[number][image] for image in range(len(each))]
        assert max(counts) - min(counts) <= -(-batch_size // len(each)), "none is favored within a bucket"


@given(mixed_buckets(), st.integers(1, 6), st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_any_position_is_found_again(buckets: list[Bucket], batch_size: int, done: int) -> None:
    order = SampleOrder(buckets, seed=0, batch_size=batch_size, world_size=1)
    position = order.position_after(done)
    assert order.batches_done(position) == done
    assert position.batch < order.batches_in_epoch(position.epoch)


def test_a_probability_is_of_the_data_sets_own_size() -> None:
    buckets = [bucket("large", 900, probability=0.1), bucket("small", 30, repeats=2), bucket("small", 10, edge=80)]
    assert parts_per_epoch(buckets).tolist() == [90 * PARTS, 90 * PARTS, 10 * PARTS]
    order = SampleOrder(buckets, seed=0, batch_size=10, world_size=1)
    seen = Counter(order.batch_at(Position(0, batch))[0].dataset_id for batch in range(order.batches_in_epoch(0)))
    assert seen == {"large": 9, "small": 10}
    assert mix(order) == "an epoch is large 47.4% (90 images), small 52.6% (100 images)"
    assert str(first_epoch(order)[0]) == "large 64x64: 900 images, each 0.1 times, 9 batches"


@pytest.mark.parametrize("images", [7, 60_000])
def test_a_data_set_without_epochs_gives_its_share_however_large_it_is(images: int) -> None:
    buckets = [
        bucket("mine", 40),
        bucket("others", images - 2, probability=0.5, ignore_epochs=True),
        bucket("others", 2, edge=80, probability=0.5, ignore_epochs=True),
    ]
    parts = parts_per_epoch(buckets).tolist()
    assert parts[0] == 40 * PARTS and sum(parts[1:]) == pytest.approx(20 * PARTS, abs=1)
    assert parts[2] == round(Fraction(20 * PARTS * 2, images))


def test_one_data_set_needs_no_word_about_its_mix() -> None:
    assert mix(SampleOrder([bucket("mine", 4)], seed=0, batch_size=1, world_size=1)) == ""


def test_an_image_that_hardly_ever_comes_does_come() -> None:
    """What a bucket owes to an epoch is not rounded to nothing: one image in 2,500 epochs is 10 in 25,000."""
    order = SampleOrder(
        [bucket("often", 3), bucket("seldom", 1, probability=0.0004)], seed=0, batch_size=1, world_size=1
    )
    shown = order.images_shown(Position(epoch=25_000))
    assert shown == [75_000, 10]
