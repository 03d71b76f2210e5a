"""Which images come when, as a pure function of the buckets, the seed and the number of images in a batch.

Each bucket is an endless stream: a permutation of its images, then another, one permutation a pass. A batch for all
ranks together is a run of `batch_size * world_size` consecutive images of one bucket's stream, so it is always full and
no image is left out because a bucket is small. By the end of `k` epochs a bucket that owes `w` images to each epoch
(`parts_per_epoch`) has given ceil(k·w / (batch_size·world_size)) batches; an epoch's batches are those that are new
in it, shuffled.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from helpers.data.types import Bucket
from helpers.dataloader.rng import permutation
from helpers.dataloader.types import Position

PASSES_KEPT = 2
PARTS = 1_000_000
"""Amounts are whole numbers of millionths of an image, so that nothing is rounded twice however long a run is."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One place in the order: which image stands there, and the numbers that seed what is random about it.

    bucket: index in the order's buckets. image: row of the dataset's catalog. pass_number: how often the image's
    bucket had been gone through before. slot: place in the batch of all ranks together.
    """

    bucket: int
    dataset_id: str
    image: int
    pass_number: int
    position: Position
    slot: int


@dataclass(frozen=True)
class _Epoch:
    """The batches of an epoch: the bucket of each, and which of that bucket's batches since the beginning it is."""

    bucket: NDArray[np.int32]
    number: NDArray[np.int64]


class SampleOrder:
    """The order of all samples of all epochs; two orders of equal arguments are equal.

    Looking up a batch costs the same however many images there are; only the first batch of an epoch, and the first of
    a bucket's pass, draw a permutation.
    """

    def __init__(self, buckets: Sequence[Bucket], *, seed: int, batch_size: int, world_size: int) -> None:
        assert any(len(bucket) for bucket in buckets), "a catalog without images has been refused before"
        self.buckets = tuple(buckets)
        self.batch_size = batch_size
        self.world_size = world_size
        self._seed = seed
        self._parts_per_epoch = parts_per_epoch(buckets)
        self._streams = tuple(_Stream(bucket, seed=seed) for bucket in self.buckets)
        self._epoch = lru_cache(maxsize=1)(self._draw_epoch)

    @property
    def images_per_batch(self) -> int:
        """Images in one batch of all ranks together."""
        return self.batch_size * self.world_size

    @property
    def bucket_images_per_epoch(self) -> list[float]:
        """Images that each bucket owes to an epoch; what is more, or less, in one epoch the others make good."""
        return (self._parts_per_epoch / PARTS).tolist()

    def batches_before(self, epoch: int) -> int:
        """Batches of all epochs before `epoch`."""
        return int(self._bucket_batches_before(epoch).sum())

    def batches_in_epoch(self, epoch: int) -> int:
        """Batches of `epoch`; 0 where earlier ones, being whole batches, have shown enough of every bucket."""
        return sum(self.bucket_batches_in(epoch))

    def bucket_batches_in(self, epoch: int) -> list[int]:
        """Batches of each bucket in `epoch`."""
        return (self._bucket_batches_before(epoch + 1) - self._bucket_batches_before(epoch)).tolist()

    def batches_done(self, position: Position) -> int:
        """Batches from the beginning to `position`."""
        return self.batches_before(position.epoch) + position.batch

    def position_after(self, batches: int) -> Position:
        """Where the order stands after so many batches; never at the end of an epoch, but at the start of the next."""
        last = batches * self.images_per_batch * PARTS // int(self._parts_per_epoch.sum()) + 1
        epoch = bisect_right(range(last + 1), batches, key=self.batches_before) - 1
        return Position(epoch=epoch, batch=batches - self.batches_before(epoch))

    def next_position(self, position: Position) -> Position:
        """The position one batch further."""
        return self.position_after(self.batches_done(position) + 1)

    def for_world_size(self, world_size: int) -> "SampleOrder":
        """The order of the same images among so many ranks."""
        return SampleOrder(self.buckets, seed=self._seed, batch_size=self.batch_size, world_size=world_size)

    def images_shown(self, position: Position) -> list[int]:
        """Images that each bucket has given before `position`."""
        drawn = self._epoch(position.epoch).bucket[: position.batch]
        batches = self._bucket_batches_before(position.epoch) + np.bincount(drawn, minlength=len(self.buckets))
        return (batches * self.images_per_batch).tolist()

    def position_after_images(self, shown: Sequence[int]) -> Position:
        """The last position before which no bucket has given more than `shown`: from there on none is left out.

        Of a bucket that a batch holds whole the last batch may be begun, as the next one goes through its images
        again; but not before each was shown once.
        """
        per_batch = self.images_per_batch
        pairs = zip(self.buckets, shown, strict=True)
        batches = np.array([-(-n // per_batch) if len(b) <= min(n, per_batch) else n // per_batch for b, n in pairs])
        parts = self._parts_per_epoch
        most = 1 + int(((batches + 1) * per_batch * PARTS // np.maximum(parts, 1)).min())
        epoch = bisect_right(
            range(most + 1), False, key=lambda e: bool((self._bucket_batches_before(e) > batches).any())
        )
        drawn = self._epoch(epoch - 1)
        return Position(epoch=epoch - 1, batch=int(np.flatnonzero(drawn.number >= batches[drawn.bucket])[0]))

    def batch_at(self, position: Position) -> tuple[Sample, ...]:
        """The samples of all ranks, `images_per_batch` of them, in the order of their slots."""
        epoch = self._epoch(position.epoch)
        bucket = int(epoch.bucket[position.batch])
        start = int(epoch.number[position.batch]) * self.images_per_batch
        dataset_id = self.buckets[bucket].dataset_id
        return tuple(
            Sample(bucket, dataset_id, image, pass_number, position, slot)
            for slot, (image, pass_number) in enumerate(self._streams[bucket].run(start, self.images_per_batch))
        )

    def batch_of_rank(self, position: Position, *, rank: int) -> tuple[Sample, ...]:
        """The `batch_size` samples of `rank`: its slice of the batch of all ranks."""
        return self.batch_at(position)[rank * self.batch_size : (rank + 1) * self.batch_size]

    def _bucket_batches_before(self, epoch: int) -> NDArray[np.int64]:
        """Batches of each bucket in all epochs before `epoch`."""
        return -(-epoch * self._parts_per_epoch // (self.images_per_batch * PARTS))

    def _draw_epoch(self, epoch: int) -> _Epoch:
        """Shuffle the buckets' batches among each other; each bucket's own come in the order of its stream."""
        done = self._bucket_batches_before(epoch)
        counts = np.array(self.bucket_batches_in(epoch))
        bucket = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        order = permutation(len(bucket), seed=self._seed, purpose="order of batches", parts=(epoch,))
        numbers_by_bucket = np.arange(len(bucket)) - np.repeat(np.cumsum(counts) - counts - done, counts)
        bucket, number = bucket[order], np.empty(len(bucket), dtype=np.int64)
        number[np.argsort(bucket, kind="stable")] = numbers_by_bucket
        return _Epoch(bucket=bucket, number=number)


class _Stream:
    """A bucket's endless stream of images."""

    def __init__(self, bucket: Bucket, *, seed: int) -> None:
        self._bucket = bucket
        self._seed = seed
        self._pass = lru_cache(maxsize=PASSES_KEPT)(self._draw_pass)

    def run(self, start: int, length: int) -> list[tuple[int, int]]:
        """Places `start` to `start + length` of the stream: the image's row in the catalog and the pass's number."""
        found: list[tuple[int, int]] = []
        while len(found) < length:
            pass_number, first = divmod(start + len(found), len(self._bucket))
            places = self._pass(pass_number)[first : first + length - len(found)]
            found += [(image, pass_number) for image in self._bucket.images[places].tolist()]
        return found

    def _draw_pass(self, pass_number: int) -> NDArray[np.int32]:
        size = self._bucket.size
        parts = (self._bucket.dataset_id, size.width, size.height, pass_number)
        return permutation(len(self._bucket), seed=self._seed, purpose="order of images", parts=parts)


def parts_per_epoch(buckets: Sequence[Bucket]) -> NDArray[np.int64]:
    """What each bucket gives to an epoch, in millionths of an image [buckets], before batches are filled.

    n · (1 + repeats) · probability of a bucket of n images. A dataset that ignores epochs gives `probability` times
    as much as all that count together, however large it is, shared among its buckets by their images.
    """
    counting = [_own_parts(bucket) if not bucket.ignore_epochs else 0 for bucket in buckets]
    images: dict[str, int] = {}
    for bucket in buckets:
        images[bucket.dataset_id] = images.get(bucket.dataset_id, 0) + len(bucket)
    together = sum(counting)
    parts = [
        round(together * _exactly(bucket.probability) * len(bucket) / images[bucket.dataset_id])
        if bucket.ignore_epochs
        else own
        for bucket, own in zip(buckets, counting, strict=True)
    ]
    return np.array(parts, dtype=np.int64)


def _own_parts(bucket: Bucket) -> int:
    return round(PARTS * len(bucket) * (1 + bucket.repeats) * _exactly(bucket.probability))


def _exactly(probability: float) -> Fraction:
    """The decimal that was written, not the nearest binary number to it."""
    return Fraction(repr(probability))
