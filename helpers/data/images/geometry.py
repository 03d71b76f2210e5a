"""Computes how images are resized and cropped for training: arithmetic on whole columns of sizes, without pixels.

An image is resized to cover its training size at its aspect ratio, and the rest is cropped; it is never stretched by
more than the rounding to whole pixels.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helpers.config.datasets.types import ImageDataset
from helpers.data.columns import encode_name

Floats = NDArray[np.float64]
DRAW_BYTES = 24


@dataclass(frozen=True, kw_only=True)
class CropRules:
    """The settings that determine how images are resized and cropped.

    resolution, maximum and downsample are in the unit of `resolution_type`. area: megapixels; pixel: pixels of the
    shorter edge; pixel_area: the edge of a square of that area. maximum and downsample are infinite if not set.
    alignment: widths and heights are multiples of it, in pixels; rounding: decimals of the aspect ratio.
    aspect_buckets: the aspect ratios (width over height) to choose from.
    """

    resolution: float
    resolution_type: str
    alignment: int
    rounding: int
    crop: bool
    crop_aspect: str
    crop_style: str
    aspect_buckets: tuple[float, ...] = ()
    maximum: float = math.inf
    downsample: float = math.inf

    @property
    def draws(self) -> bool:
        """Whether any of it is random."""
        return self.crop and (self.crop_style == "random" or self.crop_aspect == "random")


def cut_rules(dataset: ImageDataset) -> CropRules:
    """The crop rules of a dataset."""
    return CropRules(
        resolution=dataset.resolution,
        resolution_type=dataset.resolution_type,
        alignment=dataset.aspect_bucket_alignment,
        rounding=dataset.aspect_bucket_rounding,
        crop=dataset.crop,
        crop_aspect=dataset.crop_aspect,
        crop_style=dataset.crop_style,
        aspect_buckets=dataset.crop_aspect_buckets,
        maximum=dataset.maximum_image_size or math.inf,
        downsample=dataset.target_downsample_size or math.inf,
    )


def size_metric(sizes: NDArray[np.integer], resolution_type: str) -> Floats:
    """How large images of `sizes` [N, 2] are [N], in the unit of `resolution_type`."""
    edges = sizes.astype(np.float64)
    if resolution_type == "pixel":
        return edges.min(axis=1)
    area = edges[:, 0] * edges[:, 1]
    return area / 1e6 if resolution_type == "area" else np.sqrt(area)


def random_draws(paths: Iterable[str], *, seed: int, dataset_id: str, purpose: str = "crop") -> Floats:
    """Three random numbers in [0, 1) per image [N, 3], which depend only on the seed, purpose, dataset and path."""
    start = hashlib.blake2b(f"{purpose}\0{seed}\0{dataset_id}\0".encode(), digest_size=DRAW_BYTES)
    digests = []
    for path in paths:
        one = start.copy()
        one.update(encode_name(path))
        digests.append(one.digest())
    whole = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 3)
    return (whole >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_of_epoch(paths: Sequence[str], *, seed: int, dataset_id: str, epoch: int) -> Floats:
    """`random_draws` with a new crop position in each epoch; aspect ratios, and so the buckets, never change."""
    first = random_draws(paths, seed=seed, dataset_id=dataset_id)
    if epoch == 0:
        return first
    other = random_draws(paths, seed=seed, dataset_id=dataset_id, purpose=f"crop of epoch {epoch}")
    return np.concatenate([first[:, :1], other[:, 1:]], axis=1)


def geometries(sizes: NDArray[np.integer], *, rules: CropRules, draws: Floats) -> NDArray[np.int32]:
    """The geometries [N, 6] (resize width and height, crop left, top, right and bottom) of upright `sizes` [N, 2].

    draws: from `random_draws` [N, 3]; not used, and may be empty, if `rules.draws` is false.
    """
    edges = sizes.astype(np.float64)
    target = _targets(edges, rules, draws)
    scale = (target / edges).max(axis=1)
    if rules.crop and rules.maximum < math.inf:
        scale = np.maximum(scale, _own_scale(sizes, rules))
    resize = np.maximum(target, np.rint(edges * scale[:, None]))
    start = _offsets(resize - target, rules, draws)
    return np.concatenate([resize, start, start + target], axis=1).astype(np.int32)


def crop_around(cuts: NDArray[np.int32], *, middles: Floats) -> NDArray[np.int32]:
    """The geometries `cuts` [N, 6] with each crop centered as close to `middles` [N, 2] as the image allows.

    middles: fractions of the image's width and height; 0.5 is the center.
    """
    resize, target = cuts[:, :2], cuts[:, 4:6] - cuts[:, 2:4]
    start = np.clip(np.floor(middles * resize - target / 2), 0, resize - target)
    return np.concatenate([resize, start, start + target], axis=1).astype(np.int32)


def _targets(edges: Floats, rules: CropRules, draws: Floats) -> Floats:
    """The training size of each image [N, 2]."""
    aspects = edges[:, 0] / edges[:, 1]
    if rules.crop and rules.crop_aspect == "square":
        return _sizes_of(np.ones_like(aspects), rules)
    if rules.crop and rules.crop_aspect in ("closest", "random"):
        choices = np.array(rules.aspect_buckets, np.float64)
        if rules.crop_aspect == "random":
            chosen = np.floor(draws[:, 0] * len(choices)).astype(np.int64)
        else:
            chosen = np.abs(np.log(aspects)[:, None] - np.log(choices)[None]).argmin(axis=1)
        return _sizes_of(choices, rules)[chosen]
    # Rounding the longer over the shorter edge gives an image and its transpose transposed buckets.
    rounded = np.round(edges.max(axis=1) / edges.min(axis=1), rules.rounding)
    return _sizes_of(np.where(aspects < 1, 1 / rounded, rounded), rules)


def _sizes_of(aspects: Floats, rules: CropRules) -> Floats:
    """Aligned widths and heights [N, 2] of the aspect ratios `aspects` [N] (width over height) at the resolution."""
    if rules.resolution_type == "pixel":
        shorter = _on_grid(np.full_like(aspects, rules.resolution), rules.alignment)
        widths, heights = shorter * np.maximum(aspects, 1), shorter / np.minimum(aspects, 1)
    else:
        area = rules.resolution * 1e6 if rules.resolution_type == "area" else rules.resolution**2
        # A strip of one alignment unit cannot get narrower: it keeps the area, and its ends are cropped.
        longest = max(area / rules.alignment**2, 1.0)
        aspects = np.clip(aspects, 1 / longest, longest)
        widths, heights = np.sqrt(area * aspects), np.sqrt(area / aspects)
    return _on_grid(np.stack([widths, heights], axis=1), rules.alignment)


def _on_grid(edges: Floats, alignment: int) -> Floats:
    return np.maximum(np.rint(edges / alignment), 1) * alignment


def _own_scale(sizes: NDArray[np.integer], rules: CropRules) -> Floats:
    """The scale [N] that shrinks images above the maximum to `downsample`; 1 for the others."""
    measured = size_metric(sizes, rules.resolution_type)
    scale = np.minimum(rules.downsample / measured, 1.0)
    if rules.resolution_type == "area":
        scale = np.sqrt(scale)
    return np.where(measured > rules.maximum, scale, 1.0)


def _offsets(overhang: Floats, rules: CropRules, draws: Floats) -> Floats:
    """Left and top of the crop [N, 2], for images that are `overhang` [N, 2] pixels larger than the crop."""
    if rules.crop and rules.crop_style == "random":
        return np.floor(draws[:, 1:] * (overhang + 1))
    if rules.crop and rules.crop_style == "corner":
        return overhang
    return np.floor(overhang / 2)
