"""Keeps images back from training, the same ones in every run with the same seed, so that their loss can be told."""

from collections.abc import Sequence
from heapq import nsmallest
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from helpers.data.sources import open as places
from helpers.data.types import Catalog
from helpers.dataloader.rng import seeded_int
from helpers.errors import DataError
from helpers.models.family import VaeSpec
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.preparation.prepare import PreparedDataset, open_flips

NAMED = 5
Image = tuple[str, str]
"""Where an image lies: its source, and its path there."""


def held_out_mask(catalogs: Sequence[Catalog], *, count: int, seed: int) -> tuple[NDArray[np.bool_], ...]:
    """Which images of each catalog are not trained on: `count` of each but regularization data, and their like.

    They are those whose hash of (seed, path) is smallest, so that one more image moves one at the most. What one data
    set keeps back no other one that shows the same file trains on.

    Raises DataError where a dataset would have nothing left to train on.
    """
    held = {image for catalog in catalogs for image in _smallest(catalog, count=count, seed=seed)}
    found = []
    for catalog in catalogs:
        source = catalog.source.describe()
        found.append(np.fromiter(((source, path) in held for path in catalog.paths), bool, count=len(catalog)))
        if found[-1].all():
            raise DataError(
                f"num_eval_images={count} leaves nothing of the {len(catalog)} images of dataset"
                f" {catalog.dataset_id} to train on: say a smaller number."
            )
    return tuple(found)


def training_split(catalogs: Sequence[Catalog], *, count: int, seed: int) -> tuple[Catalog, ...]:
    """The catalogs without what is kept back of them."""
    if not count:
        return tuple(catalogs)
    held = held_out_mask(catalogs, count=count, seed=seed)
    return tuple(catalog.only(np.flatnonzero(~each)) for catalog, each in zip(catalogs, held, strict=True))


def split_validation(
    prepared: Sequence[PreparedDataset], *, count: int, seed: int, part: VaeSpec, reporter: Reporter
) -> tuple[tuple[PreparedDataset, ...], tuple[PreparedDataset, ...]]:
    """What is trained on, and what is kept back, of which `reporter` is told; see `kept_back`."""
    if not count:
        return tuple(prepared), ()
    held = held_out_mask([each.catalog for each in prepared], count=count, seed=seed)
    trained, split = [], []
    for each, is_held in zip(prepared, held, strict=True):
        trained.append(_only(each, ~is_held, part=part))
        if is_held.any() and not each.catalog.is_regularisation_data:
            split.append(_only(each, is_held, part=part))
            reporter.handle(Notice(text=_in_words(split[-1])))
    return tuple(trained), tuple(split)


def _smallest(catalog: Catalog, *, count: int, seed: int) -> list[Image]:
    if catalog.is_regularisation_data:
        return []
    source = catalog.source.describe()
    ranked = ((seeded_int(seed, "held out", path), (source, path)) for path in catalog.paths)
    return [image for _, image in nsmallest(count, ranked, key=itemgetter(0))]


def _only(each: PreparedDataset, these: NDArray[np.bool_], *, part: VaeSpec) -> PreparedDataset:
    catalog = each.catalog.only(np.flatnonzero(these))
    store = places.open_cache(each.latent_store)
    return open_flips(each.dataset, catalog=catalog, place=each.latent_store, store=store, part=part)


def _in_words(kept: PreparedDataset) -> str:
    paths = kept.catalog.paths
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    named = ", ".join(paths[index] for index in range(min(NAMED, len(paths))))
    return f"{kept.catalog.dataset_id}: kept back from training: {named}{more}"
