"""Holds images out of training for the validation loss, the same ones in every run with the same seed."""

from collections.abc import Sequence
from heapq import nsmallest
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from helpers.data.sources.open import open_cache
from helpers.data.types import Catalog
from helpers.dataloader.rng import seeded_int
from helpers.errors import DataError
from helpers.models.family import VaeSpec
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.preparation.prepare import PreparedDataset, open_flips

NAMED = 5
Image = tuple[str, str]
"""An image's source and its path there."""


def held_out_mask(catalogs: Sequence[Catalog], *, count: int, seed: int) -> tuple[NDArray[np.bool_], ...]:
    """Mask of the held-out images of each catalog: `count` of each, none of regularization data.

    They are the images with the smallest hash of (seed, path), so a new image replaces at most one of them. A file
    held out of one dataset is held out of all others that contain it.

    Raises DataError if a dataset would have no image left to train on.
    """
    held = {image for catalog in catalogs for image in _smallest(catalog, count=count, seed=seed)}
    found = []
    for catalog in catalogs:
        source = catalog.source.describe()
        found.append(np.fromiter(((source, path) in held for path in catalog.paths), bool, count=len(catalog)))
        if found[-1].all():
            raise DataError(
                f"num_eval_images={count} leaves nothing of the {len(catalog)} images of dataset"
                f" {catalog.dataset_id} to train on: set a smaller number."
            )
    return tuple(found)


def training_split(catalogs: Sequence[Catalog], *, count: int, seed: int) -> tuple[Catalog, ...]:
    """The catalogs without their held-out images."""
    if not count:
        return tuple(catalogs)
    held = held_out_mask(catalogs, count=count, seed=seed)
    return tuple(catalog.only(np.flatnonzero(~each)) for catalog, each in zip(catalogs, held, strict=True))


def split_validation(
    prepared: Sequence[PreparedDataset], *, count: int, seed: int, part: VaeSpec, reporter: Reporter
) -> tuple[tuple[PreparedDataset, ...], tuple[PreparedDataset, ...]]:
    """The datasets to train on and the held-out ones, which are reported; see `held_out_mask`."""
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
    store = open_cache(each.latent_store)
    return open_flips(each.dataset, catalog=catalog, latent_store=each.latent_store, store=store, part=part)


def _in_words(held_out: PreparedDataset) -> str:
    paths = held_out.catalog.paths
    more = f" and {len(paths) - NAMED:,} more" if len(paths) > NAMED else ""
    named = ", ".join(paths[index] for index in range(min(NAMED, len(paths))))
    return f"{held_out.catalog.dataset_id}: held out of training: {named}{more}"
