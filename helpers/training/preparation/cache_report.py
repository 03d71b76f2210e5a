"""Reports what the caches of a run hold, and which entries its datasets, captions and encoders use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from helpers.cache.keys import Keys, latent_keys, text_keys
from helpers.cache.maintenance import contents, prune
from helpers.cache.store import open_tensors
from helpers.cache.text import NO_KEYS
from helpers.config.datasets.file import DatasetFile
from helpers.config.train_config import RunConfig
from helpers.data.sources.open import open_cache
from helpers.data.types import Catalog
from helpers.dataloader.loader import EMPTY_CAPTION
from helpers.models.family import TextEncoderSpec, VaeSpec
from helpers.models.registry import family_of
from helpers.ranks import SingleProcess
from helpers.reporting.events import Notice
from helpers.reporting.format import format_bytes
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore
from helpers.training.distributed.runtime import find_device, resolve_precision
from helpers.training.preparation.early_check import checked_parts
from helpers.training.preparation.prepare import open_catalogs, sides_of, workers_for
from helpers.training.validation.images import validation_prompts

WHAT_COUNTS = (
    "Used is what the datasets, captions and encoders of these settings need (here with mixed_precision={dtype}). "
    "Entries of other settings count as not used: of another VAE or text encoder, another dtype or resolution, a "
    "disabled dataset, another config.env. A run that needs them after they are removed encodes them again."
)
HINT = "Nothing was removed. To remove what is not used: python -m helpers.cache --prune"


@dataclass(frozen=True, kw_only=True)
class CacheInputs:
    """What the cache keys of a run are made from. captions: of each text cache, by its id."""

    catalogs: tuple[Catalog, ...]
    captions: dict[str, list[str]]
    vae: VaeSpec
    text_encoders: tuple[TextEncoderSpec, ...]
    mixed_precision: str


@dataclass(frozen=True, kw_only=True)
class UsedCache:
    """A cache, and the keys of its used entries: [K] per dataset or encoder."""

    store: CacheStore
    keys: list[Keys] = field(default_factory=list)


def report_caches(config: RunConfig, files: DatasetFile, *, prunes: bool, reporter: Reporter) -> Iterator[str]:
    """Yield a line for each cache, and what counts as used; with `prunes`, also remove what is not used.

    Raises UserError if the model or a dataset cannot be opened, since then it is unknown what is used.
    """
    inputs = read_inputs(config, files, reporter=reporter)
    unused = 0
    for cache in used_caches(files, inputs):
        used, tensors = np.concatenate([NO_KEYS, *cache.keys]), open_tensors(cache.store)
        for problem in tensors.problems():
            reporter.handle(Notice(text=problem, level="warning"))
        found = prune(cache.store, used=used) if prunes else contents(tensors, used=used)
        unused += found.unused_entries
        yield (
            f"{cache.store.describe()}: {_entries(found.entries, found.size_bytes)}; "
            f"{'removed' if prunes else 'not used'}: {_entries(found.unused_entries, found.unused_bytes)}"
        )
    yield WHAT_COUNTS.format(dtype=inputs.mixed_precision)
    if unused and not prunes:
        yield HINT


def read_inputs(config: RunConfig, files: DatasetFile, *, reporter: Reporter) -> CacheInputs:
    """Open the datasets and the model's files as a run does; no weights are loaded."""
    family = family_of(config.model.pretrained_model_name_or_path)
    parts = checked_parts(config, family=family)
    device = find_device(config.run)
    precision = resolve_precision(config.precision, device)
    workers = workers_for(config.data, ranks=SingleProcess(), reporter=reporter)
    catalogs = open_catalogs(files, parts=parts, seed=config.run.seed, workers=workers)
    encoders = family.text_parts(parts, config.text, precision, device)
    return CacheInputs(
        catalogs=catalogs,
        captions=_captions(files, catalogs=catalogs, default=(EMPTY_CAPTION, *validation_prompts(config.validation))),
        vae=family.latent_part(parts, precision, device, vae_batch_size=1),
        text_encoders=tuple(each for each in encoders if each.is_cached),
        mixed_precision=precision.mixed_precision or "no",
    )


def _captions(files: DatasetFile, *, catalogs: Sequence[Catalog], default: Sequence[str]) -> dict[str, list[str]]:
    """Every caption of each text cache that a dataset uses, including datasets whose cache is trusted."""
    captions = {files.text_embeds.id: dict.fromkeys(default)}
    for dataset, catalog in zip(files.all_images, catalogs, strict=True):
        theirs = captions.setdefault(files.text_store_of(dataset).id, {})
        for index in range(len(catalog)):
            theirs.update(dict.fromkeys(catalog.captions_of(index)))
    return {store: list(theirs) for store, theirs in captions.items()}


def used_caches(files: DatasetFile, inputs: CacheInputs) -> tuple[UsedCache, ...]:
    """Every cache that a dataset uses, once, with the keys of its used entries."""
    caches: dict[str, UsedCache] = {}
    for dataset, catalog in zip(files.all_images, inputs.catalogs, strict=True):
        cache = _cache_of(open_cache(files.latents_of(dataset)), caches)
        tensors = open_tensors(cache.store)
        for side in sides_of(dataset, catalog):
            cache.keys.append(tensors.keys_held(partial(_latent_keys, side), encoder=inputs.vae))
    for store in (store for store in files.text_stores if store.id in inputs.captions):
        cache = _cache_of(open_cache(store), caches)
        tensors = open_tensors(cache.store)
        keys_of = partial(_text_keys, inputs.captions[store.id])
        cache.keys.extend(tensors.keys_held(keys_of, encoder=encoder) for encoder in inputs.text_encoders)
    return tuple(caches.values())


def _cache_of(store: CacheStore, caches: dict[str, UsedCache]) -> UsedCache:
    return caches.setdefault(store.describe(), UsedCache(store=store))


def _latent_keys(catalog: Catalog, identity: str) -> Keys:
    return latent_keys(catalog, vae_identity=identity)


def _text_keys(captions: Sequence[str], identity: str) -> Keys:
    return text_keys(captions, part_identity=identity)


def _entries(number: int, size_bytes: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}, {format_bytes(size_bytes)}"
