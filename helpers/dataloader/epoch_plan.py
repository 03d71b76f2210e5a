"""What the first epoch does with each bucket, in numbers and in words, to be read before training starts."""

from dataclasses import dataclass

from helpers.data.types import Size
from helpers.dataloader.sampler import SampleOrder


@dataclass(frozen=True, kw_only=True)
class BucketPlan:
    """One bucket in the first epoch.

    due: images that an epoch should show of it. batches, shown, images_per_batch: of all ranks together.
    """

    dataset_id: str
    size: Size
    images: int
    due: float
    batches: int
    images_per_batch: int

    @property
    def shown(self) -> int:
        return self.batches * self.images_per_batch

    @property
    def shown_early(self) -> float:
        """Images shown beyond `due` to fill the last batch; the next epoch shows that many fewer."""
        return self.shown - self.due

    def __str__(self) -> str:
        return f"{self.dataset_id} {self.size}: {self.in_words}"

    @property
    def in_words(self) -> str:
        """The plan without the bucket's name."""
        images = "1 image" if self.images == 1 else f"{self.images:,} images"
        times = self.due / self.images
        repeated = "" if times == 1 else f", each {times:.3g} times"
        batches = "1 batch" if self.batches == 1 else f"{self.batches:,} batches"
        return f"{images}{repeated}, {batches}{self._filling()}"

    def _filling(self) -> str:
        if self.images < self.images_per_batch:
            times = self.images_per_batch / self.images
            return f"; fewer than the {self.images_per_batch} of a batch, which shows each {times:.3g} times"
        if self.shown_early:
            return f"; the last is filled with {self.shown_early:.3g} of the next epoch's"
        return ""


def first_epoch(order: SampleOrder) -> tuple[BucketPlan, ...]:
    """The plan of each bucket, in the order of `order.buckets`."""
    return tuple(
        BucketPlan(
            dataset_id=bucket.dataset_id,
            size=bucket.size,
            images=len(bucket),
            due=due,
            batches=batches,
            images_per_batch=order.images_per_batch,
        )
        for bucket, due, batches in zip(
            order.buckets, order.bucket_images_per_epoch, order.bucket_batches_in(0), strict=True
        )
    )


def mix(order: SampleOrder) -> str:
    """Each dataset's share of an epoch, in words, averaged over many epochs; empty for a single dataset."""
    due: dict[str, float] = {}
    for bucket, images in zip(order.buckets, order.bucket_images_per_epoch, strict=True):
        due[bucket.dataset_id] = due.get(bucket.dataset_id, 0) + images
    if len(due) == 1:
        return ""
    everything = sum(due.values())
    shares = (f"{name} {images / everything:.1%} ({images:,.9g} images)" for name, images in due.items())
    return f"an epoch is {', '.join(shares)}"
