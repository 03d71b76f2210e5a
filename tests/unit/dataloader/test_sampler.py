"""No image is lost, none is favored, every batch is full, and any position continues as if never left.

The mix of datasets over any run of epochs is what their entries set, to a batch.
"""

import itertools
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.data.types import Bucket, Size
from helpers.dataloader.epoch_plan import first_epoch, mix
from helpers.dataloader.sampler import PARTS, Sample, SampleOrder, parts_per_epoch
from helpers.dataloader.types import Position


def make_buckets(lengths: list[int], repeats: list[int]) -> list[Bucket]:
    first = 0
    buckets = []
    for number, (length, repeat) in enumerate(zip(lengths, repeats, strict=True)):
        images = np.arange(first, first + length, dtype=np.int64)
        buckets.append(Bucket(f"set-{number % 2}", Size(64 + 16 * number, 64), images, repeat))
        first += length
    return buckets


@st.composite
def buckets_of_any_size(draw: st.DrawFn) -> list[Bucket]:
    lengths = draw(st.lists(st.integers(1, 23), min_size=1, max_size=5))
    return make_buckets(lengths, [draw(st.integers(0, 3)) for _ in lengths])


batch_sizes, world_sizes, accumulations = st.integers(1, 8), st.integers(1, 2), st.integers(1, 4)
START = Position()
seeds, epochs = st.integers(0, 2**32), st.integers(1, 5)


def walk(order: SampleOrder, batches: int, start: Position = START) -> list[tuple[Sample, ...]]:
    """The next `batches` batches of all ranks, one position after the other."""
    position, found = start, []
    for _ in range(batches):
        found.append(order.batch_at(position))
        position = order.next_position(position)
    return found


@settings(max_examples=80, deadline=None)
@given(buckets_of_any_size(), seeds, batch_sizes, world_sizes, world_sizes, st.integers(0, 40))
@example(make_buckets([21, 13, 9, 1, 1], [2, 0, 0, 0, 0]), 458, 6, 1, 2, 11)  # 9 images, of which 6 were shown
def test_another_number_of_ranks_goes_on_where_no_image_is_left_out(
    buckets: list[Bucket], seed: int, batch_size: int, before: int, now: int, batches: int
) -> None:
    """Every showing that one number of ranks owed and had not given yet comes with the other."""
    old = SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=before)
    new = old.for_world_size(now)
    stop = old.position_after(batches)
    start = new.position_after_images(old.images_shown(stop))
    if before == now:
        assert start == stop
    end = max(stop.epoch, start.epoch) + 2
    given = walk(old, batches) + walk(new, new.batches_before(end) - new.batches_done(start), start)
    for number, bucket in enumerate(buckets):
        seen = Counter(sample.image for batch in given for sample in batch if sample.bucket == number)
        if len(bucket) > new.images_per_batch:
            whole_passes = end * (1 + bucket.repeats)
            assert min(seen[image] for image in bucket.images.tolist()) >= whole_passes
        else:
            assert set(seen) == set(bucket.images.tolist())
    assert start.epoch >= stop.epoch - 1


@settings(max_examples=150, deadline=None)
@given(buckets_of_any_size(), seeds, batch_sizes, accumulations, world_sizes, epochs)
def test_no_image_is_lost_and_none_is_favored(
    buckets: list[Bucket], seed: int, batch_size: int, accumulation: int, world_size: int, epochs: int
) -> None:
    order = SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=world_size)
    batches = -(-order.batches_before(epochs) // accumulation) * accumulation
    assert order.batches_before(epochs) <= batches < order.batches_before(epochs) + accumulation
    seen: Counter[tuple[int, int]] = Counter()
    for batch in walk(order, batches):
        assert len(batch) == batch_size * world_size
        assert len({sample.bucket for sample in batch}) == 1
        assert [sample.slot for sample in batch] == list(range(batch_size * world_size))
        seen.update((sample.bucket, sample.image) for sample in batch)
    for number, bucket in enumerate(buckets):
        counts = [seen[number, image] for image in bucket.images.tolist()]
        assert min(counts) >= epochs * (1 + bucket.repeats)
        assert max(counts) - min(counts) <= -(-batch_size * world_size // len(bucket))


@settings(max_examples=100, deadline=None)
@given(buckets_of_any_size(), seeds, batch_sizes, world_sizes, st.integers(0, 60))
def test_any_position_continues_as_if_never_left(
    buckets: list[Bucket], seed: int, batch_size: int, world_size: int, done: int
) -> None:
    straight = walk(SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=world_size), done + 12)
    resumed = SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=world_size)
    start = resumed.position_after(done)
    assert resumed.batches_done(start) == done
    assert walk(resumed, 12, start) == straight[done:]
    assert [batch[0].position for batch in straight] == sorted({batch[0].position for batch in straight})


@settings(max_examples=100, deadline=None)
@given(buckets_of_any_size(), seeds, batch_sizes)
def test_two_ranks_see_what_one_sees_with_twice_the_batch(buckets: list[Bucket], seed: int, batch_size: int) -> None:
    one = SampleOrder(buckets, seed=seed, batch_size=2 * batch_size, world_size=1)
    two = SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=2)
    for number in range(20):
        position = one.position_after(number)
        assert two.position_after(number) == position
        together = two.batch_of_rank(position, rank=0) + two.batch_of_rank(position, rank=1)
        assert together == one.batch_of_rank(position, rank=0)


@settings(max_examples=100, deadline=None)
@given(buckets_of_any_size(), seeds, batch_sizes)
def test_a_stream_goes_through_its_bucket_again_and_again(buckets: list[Bucket], seed: int, batch_size: int) -> None:
    order = SampleOrder(buckets, seed=seed, batch_size=batch_size, world_size=1)
    streams: dict[int, list[Sample]] = {number: [] for number in range(len(buckets))}
    for sample in itertools.chain.from_iterable(walk(order, order.batches_before(3))):
        streams[sample.bucket].append(sample)
    for number, bucket in enumerate(buckets):
        for pass_number, samples in itertools.groupby(streams[number], key=lambda sample: sample.pass_number):
            images = [sample.image for sample in samples]
            assert len(images) == len(set(images)) and set(images) <= set(bucket.images.tolist())
            if pass_number < streams[number][-1].pass_number:
                assert len(images) == len(bucket)


def test_epochs_seeds_and_buckets_are_shuffled_differently() -> None:
    buckets = make_buckets([40, 40], [0, 0])

    def images(seed: int, epoch: int) -> list[int]:
        order = SampleOrder(buckets, seed=seed, batch_size=1, world_size=1)
        return [order.batch_at(Position(epoch, batch))[0].image for batch in range(80)]

    first = images(1, 0)
    assert sorted(first) == list(range(80))
    assert first != images(1, 1) and first != images(2, 0)
    of_buckets = [[image % 40 for image in first if image // 40 == bucket] for bucket in range(2)]
    assert of_buckets[0] != of_buckets[1]
    assert any(first[place] < 40 <= first[place + 1] for place in range(20)), "the buckets' batches are mixed"


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    order = SampleOrder(make_buckets([7, 2], [0, 1]), seed=42, batch_size=2, world_size=1)
    assert [[sample.image for sample in batch] for batch in walk(order, 6)] == [
        [5, 6],
        [0, 2],
        [1, 3],
        [4, 3],
        [8, 7],
        [7, 8],
    ]


def test_looking_up_a_batch_does_not_grow_with_the_images() -> None:
    def bytes_of_a_lookup(images: int) -> int:
        order = SampleOrder(make_buckets([images // 2, images // 2], [0, 0]), seed=0, batch_size=4, world_size=1)
        walk(order, 20)
        tracemalloc.start()
        walk(order, 20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert bytes_of_a_lookup(200_000) < bytes_of_a_lookup(1000) + 4096


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
