"""No image is lost, none is favored, every batch is full, and any position continues as if never left."""

import itertools
import tracemalloc
from collections import Counter

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.data.types import Bucket, Size
from helpers.dataloader.sampler import Sample, SampleOrder
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
