"""The types that describe images: sizes, boxes, geometries, buckets and catalogs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.data.columns import TextColumn
from helpers.data.rejections import empty_dataset_error
from helpers.storage.protocols import SourceStore


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        return Size(self.right - self.left, self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an upright image becomes training pixels: it is resized to `resize`, then cropped to `crop`."""

    resize: Size
    crop: Box

    @property
    def target(self) -> Size:
        """The training size, which determines the bucket."""
        return self.crop.size


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a dataset; `size` is the upright size, after the EXIF orientation is applied."""

    dataset_id: str
    path: str
    size_bytes: int
    tag: str
    size: Size
    geometry: Geometry
    captions: tuple[str, ...]
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """An image that is left out; `reason` says why, as a phrase that follows the image's name.

    lasting: whether the reason holds until the file changes; if not, it is not cached for the next start.
    """

    path: str
    reason: str
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Bucket:
    """The images of one dataset that share a training size.

    repeats, probability, ignore_epochs: how often an epoch shows them, as set in the dataset's entry.
    """

    dataset_id: str
    size: Size
    images: NDArray[np.int64]
    repeats: int
    probability: float = 1.0
    ignore_epochs: bool = False

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, slots=True)
class _CaptionsOfSome:
    """The captions of some images of a catalog; rows: their rows in that catalog."""

    captions_of: Callable[[int], tuple[str, ...]]
    rows: NDArray[np.int64]

    def __call__(self, index: int) -> tuple[str, ...]:
        return self.captions_of(int(self.rows[index]))


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """All images of a dataset that can be used for training, as columns; image `i` is row `i`, ordered by path.

    paths, tags: [N]; size_bytes: [N]; sizes: [N, 2] width and height, upright;
    geometries: [N, 6] resize width and height, crop left, top, right and bottom;
    captions_of: returns the captions of image `i`, one or more.
    repeats, probability, ignore_epochs: see `Bucket`. is_regularisation_data: whether the target is the base model's
    own prediction. mirrored: whether the images are flipped horizontally after the crop.
    not_chosen: the number of images left out by max_num_samples.
    ignored: the number of files that are hidden or not images.
    """

    dataset_id: str
    source: SourceStore
    repeats: int
    paths: Sequence[str]
    tags: Sequence[str]
    size_bytes: NDArray[np.int64]
    sizes: NDArray[np.int32]
    geometries: NDArray[np.int32]
    captions_of: Callable[[int], tuple[str, ...]]
    probability: float = 1.0
    ignore_epochs: bool = False
    is_regularisation_data: bool = False
    mirrored: bool = False
    rejected: tuple[Rejected, ...] = ()
    ignored: int = 0
    not_chosen: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The images grouped by training size, ordered by width, then height; rows within a bucket ascend."""
        targets = self.geometries[:, 4:6].astype(np.int64) - self.geometries[:, 2:4]
        order = np.lexsort((targets[:, 1], targets[:, 0]))
        starts = np.flatnonzero(np.diff(targets[order], axis=0, prepend=-1).any(axis=1))
        return tuple(
            Bucket(
                dataset_id=self.dataset_id,
                size=Size(*targets[images[0]].tolist()),
                images=images,
                repeats=self.repeats,
                probability=self.probability,
                ignore_epochs=self.ignore_epochs,
            )
            for images in np.split(order, starts[1:])
            if len(images)
        )

    def geometry(self, index: int) -> Geometry:
        """The geometry of image `index`."""
        width, height, left, top, right, bottom = self.geometries[index].tolist()
        return Geometry(resize=Size(width, height), crop=Box(left, top, right, bottom))

    def without(self, rejected: Sequence[Rejected]) -> "Catalog":
        """The catalog without images whose pixels cannot be decoded; raises DataError if none are left."""
        if not rejected:
            return self
        dropped = {image.path for image in rejected}
        rows = np.flatnonzero([path not in dropped for path in self.paths])
        everything = tuple(sorted((*self.rejected, *rejected), key=lambda image: image.path))
        if not len(rows):
            place = self.source.describe()
            raise empty_dataset_error(self.dataset_id, place=place, rejected=everything, ignored=self.ignored)
        return replace(self.only(rows), rejected=everything)

    def only(self, rows: NDArray[np.int64]) -> "Catalog":
        """The catalog of only the images at `rows`, in ascending order."""
        kept = np.zeros(len(self), bool)
        kept[rows] = True
        return replace(
            self,
            paths=TextColumn.of(compress(self.paths, kept)),
            tags=TextColumn.of(compress(self.tags, kept)),
            size_bytes=self.size_bytes[rows],
            sizes=self.sizes[rows],
            geometries=self.geometries[rows],
            captions_of=_CaptionsOfSome(self.captions_of, rows),
        )

    def record(self, index: int) -> ImageRecord:
        """All data of image `index`."""
        width, height = self.sizes[index].tolist()
        return ImageRecord(
            dataset_id=self.dataset_id,
            path=self.paths[index],
            size_bytes=int(self.size_bytes[index]),
            tag=self.tags[index],
            size=Size(width, height),
            geometry=self.geometry(index),
            captions=self.captions_of(index),
            mirrored=self.mirrored,
        )
