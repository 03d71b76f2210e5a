"""How much each bucket gives to an epoch, so that the mix of datasets is what their entries say."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from helpers.data.types import Bucket

PARTS = 1_000_000
"""Amounts are whole numbers of millionths of an image, so that nothing is rounded twice however long a run is."""


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
