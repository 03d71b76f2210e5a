"""The order of samples, as a pure function of the buckets, the seed and the number of images in a batch.

Each bucket is an endless stream of permutations of its images, one per pass. A batch, of all ranks together, is
`batch_size * world_size` consecutive images of one bucket's stream. So it is always full, and no image is left out
because its bucket is small. A bucket of which each epoch should show `w` images (`parts_per_epoch`) has given
ceil(k·w / (batch_size·world_size)) batches by the end of epoch k. An epoch's batches are the new ones in it, shuffled.
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
"""Amounts are integers, in millionths of an image, so that rounding errors never add up over a long run."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: its image, and the numbers that seed its random choices.

    bucket: index in the order's buckets. image: row of the dataset's catalog. pass_number: completed passes over the
    bucket. slot: index in the batch of all ranks together.
    """

    bucket: int
    dataset_id: str
    image: int
    pass_number: int
    position: Position
    slot: int


@dataclass(frozen=True)
class _Epoch:
    """The batches of an epoch: the bucket of each, and its number among all batches of that bucket."""

    bucket: NDArray[np.int32]
    number: NDArray[np.int64]


class SampleOrder:
    """The order of all samples of all epochs; two orders of equal arguments are equal.

    Looking up a batch costs the same for any number of images; only the first batch of an epoch, and the first of a
    bucket's pass, compute a permutation.
    """

    def __init__(self, buckets: Sequence[Bucket], *, seed: int, batch_size: int, world_size: int) -> None:
        assert any(len(bucket) for bucket in buckets), "a catalog without images was refused before"
        self.buckets = tuple(buckets)
        self.batch_size = batch_size
        self.world_size = world_size
        self._seed = seed
        self._parts_per_epoch = parts_per_epoch(buckets)
        self._streams = tuple(_Stream(bucket, seed=seed) for bucket in self.buckets)
        self._epoch = lru_cache(maxsize=1)(self._make_epoch)

    @property
    def images_per_batch(self) -> int:
        """Images in one batch of all ranks together."""
        return self.batch_size * self.world_size

    @property
    def bucket_images_per_epoch(self) -> list[float]:
        """Images that an epoch should show of each bucket; single epochs differ, and the next ones make up for it."""
        return (self._parts_per_epoch / PARTS).tolist()

    def batches_before(self, epoch: int) -> int:
        """Batches of all epochs before `epoch`."""
        return int(self._bucket_batches_before(epoch).sum())

    def batches_in_epoch(self, epoch: int) -> int:
        """Batches of `epoch`; 0 if the full batches of earlier epochs have shown enough of every bucket."""
        return sum(self.bucket_batches_in(epoch))

    def bucket_batches_in(self, epoch: int) -> list[int]:
        """Batches of each bucket in `epoch`."""
        return (self._bucket_batches_before(epoch + 1) - self._bucket_batches_before(epoch)).tolist()

    def batches_done(self, position: Position) -> int:
        """Batches before `position`, since the start of the run."""
        return self.batches_before(position.epoch) + position.batch

    def position_after(self, batches: int) -> Position:
        """The position after so many batches; instead of an epoch's end, the start of the next."""
        last = batches * self.images_per_batch * PARTS // int(self._parts_per_epoch.sum()) + 1
        epoch = bisect_right(range(last + 1), batches, key=self.batches_before) - 1
        return Position(epoch=epoch, batch=batches - self.batches_before(epoch))

    def next_position(self, position: Position) -> Position:
        """The position one batch later."""
        return self.position_after(self.batches_done(position) + 1)

    def for_world_size(self, world_size: int) -> "SampleOrder":
        """The order of the same images for another number of ranks."""
        return SampleOrder(self.buckets, seed=self._seed, batch_size=self.batch_size, world_size=world_size)

    def images_shown(self, position: Position) -> list[int]:
        """Images that each bucket has shown before `position`."""
        done = self._epoch(position.epoch).bucket[: position.batch]
        batches = self._bucket_batches_before(position.epoch) + np.bincount(done, minlength=len(self.buckets))
        return (batches * self.images_per_batch).tolist()

    def position_after_images(self, shown: Sequence[int]) -> Position:
        """The last position before which no bucket has shown more than `shown`: from there, no image is left out.

        If a batch holds an entire bucket, the bucket's last batch may be started once each of its images was shown: the
        next batch shows them all again.
        """
        per_batch = self.images_per_batch
        pairs = zip(self.buckets, shown, strict=True)
        batches = np.array([-(-n // per_batch) if len(b) <= min(n, per_batch) else n // per_batch for b, n in pairs])
        parts = self._parts_per_epoch
        most = 1 + int(((batches + 1) * per_batch * PARTS // np.maximum(parts, 1)).min())
        epoch = bisect_right(
            range(most + 1), False, key=lambda e: bool((self._bucket_batches_before(e) > batches).any())
        )
        last = self._epoch(epoch - 1)
        return Position(epoch=epoch - 1, batch=int(np.flatnonzero(last.number >= batches[last.bucket])[0]))

    def batch_at(self, position: Position) -> tuple[Sample, ...]:
        """The `images_per_batch` samples of all ranks, by slot."""
        epoch = self._epoch(position.epoch)
        bucket = int(epoch.bucket[position.batch])
        start = int(epoch.number[position.batch]) * self.images_per_batch
        dataset_id = self.buckets[bucket].dataset_id
        return tuple(
            Sample(bucket, dataset_id, image, pass_number, position, slot)
            for slot, (image, pass_number) in enumerate(self._streams[bucket].run(start, self.images_per_batch))
        )

    def batch_of_rank(self, position: Position, *, rank: int) -> tuple[Sample, ...]:
        """The `batch_size` samples of `rank`: its slice of the batch."""
        return self.batch_at(position)[rank * self.batch_size : (rank + 1) * self.batch_size]

    def _bucket_batches_before(self, epoch: int) -> NDArray[np.int64]:
        """Batches of each bucket in all epochs before `epoch`."""
        return -(-epoch * self._parts_per_epoch // (self.images_per_batch * PARTS))

    def _make_epoch(self, epoch: int) -> _Epoch:
        """Shuffle the batches of all buckets; those of one bucket stay in the order of its stream."""
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
        self._pass = lru_cache(maxsize=PASSES_KEPT)(self._make_pass)

    def run(self, start: int, length: int) -> list[tuple[int, int]]:
        """The stream from `start` to `start + length`: each image's row in the catalog, and the number of its pass."""
        found: list[tuple[int, int]] = []
        while len(found) < length:
            pass_number, first = divmod(start + len(found), len(self._bucket))
            places = self._pass(pass_number)[first : first + length - len(found)]
            found += [(image, pass_number) for image in self._bucket.images[places].tolist()]
        return found

    def _make_pass(self, pass_number: int) -> NDArray[np.int32]:
        size = self._bucket.size
        parts = (self._bucket.dataset_id, size.width, size.height, pass_number)
        return permutation(len(self._bucket), seed=self._seed, purpose="order of images", parts=parts)


def parts_per_epoch(buckets: Sequence[Bucket]) -> NDArray[np.int64]:
    """What an epoch should show of each bucket, in millionths of an image [buckets].

    n · (1 + repeats) · probability for a bucket of n images. A dataset that ignores epochs is shown `probability` times
    as much as all the others together, whatever its size, divided among its buckets by their images.
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
    """The decimal number as written, not the nearest binary one."""
    return Fraction(repr(probability))
