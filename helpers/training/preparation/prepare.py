"""Opens the datasets and fills the caches, from the dataset file to everything that training reads."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from helpers.cache.latents import LatentCache, fill_latent_cache
from helpers.cache.text import CaptionJob, TextCache, fill_text_cache
from helpers.config.datasets.file import DatasetFile
from helpers.config.datasets.types import EmbedsStore, ImageDataset, S3Dataset, TextEmbedsStore
from helpers.config.options.data import CacheOptions, DataOptions
from helpers.data.catalog.build import open_catalog, remember_rejected
from helpers.data.catalog.known_files import CachedListing, clear_listing
from helpers.data.sources.image_table import ImageTable
from helpers.data.sources.open import LEAST_AT_ONCE, metadata_store, open_cache, open_images
from helpers.data.types import Catalog, Rejected
from helpers.dataloader.loader import EMPTY_CAPTION
from helpers.models.family import ModelComponents, ModelFamily, TextEncoderSpec, VaeSpec
from helpers.ranks import Ranks
from helpers.reporting.events import Notice
from helpers.reporting.pages.datasets_page import CaptionLengths
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore, SourceStore
from helpers.training.disk_space import CacheNeed, captions_needed, latents_needed
from helpers.training.distributed.runtime import Runtime
from helpers.training.preparation.caption_lengths import lengths_by_tokenizer, warn_truncated_captions


@dataclass(frozen=True, kw_only=True)
class CacheWorkers:
    """The ranks, the number of threads and the reporter with which caches are filled.

    connections: threads for images in a bucket, which mostly wait for the network.
    """

    ranks: Ranks
    threads: int
    connections: int
    reporter: Reporter

    def threads_for(self, dataset: ImageDataset) -> int:
        """How many of its images are read and decoded at once."""
        return self.connections if isinstance(dataset, S3Dataset) else self.threads


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run opens before it encodes anything: the runtime, the model's components, all images and captions.

    catalogs: of every dataset, eval datasets included. captions: of all of them, each once. validation_captions: of
    validation images. vae_batch_size: images encoded at once on an accelerator.
    """

    runtime: Runtime
    workers: CacheWorkers
    family: ModelFamily
    parts: ModelComponents
    text_parts: tuple[TextEncoderSpec, ...]
    latent_part: VaeSpec
    vae_batch_size: int
    catalogs: tuple[Catalog, ...]
    captions: tuple[str, ...]
    validation_captions: tuple[str, ...]

    @property
    def frozen_text_parts(self) -> tuple[TextEncoderSpec, ...]:
        """The text encoders that are not trained."""
        return tuple(part for part in self.text_parts if not part.trains)

    @property
    def cached_text_parts(self) -> tuple[TextEncoderSpec, ...]:
        """The text encoders whose outputs are cached."""
        return tuple(part for part in self.text_parts if part.is_cached)


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """A dataset whose images are all encoded.

    mirrored: the latents of the mirrored images, if the dataset has `flip`.
    """

    dataset: ImageDataset
    latent_store: EmbedsStore
    catalog: Catalog
    latents: LatentCache
    mirrored: LatentCache | None = None


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """What a run has before its model is loaded: the runtime, the model's components and filled caches.

    files: the dataset file. datasets: what is trained on. held_out: the held-out images, for the validation loss.
    """

    runtime: Runtime
    workers: CacheWorkers
    family: ModelFamily
    parts: ModelComponents
    latent_part: VaeSpec
    files: DatasetFile
    datasets: tuple[PreparedDataset, ...]
    text: TextCache
    lengths_of_captions: Callable[[Catalog], tuple[CaptionLengths, ...]]
    held_out: tuple[PreparedDataset, ...] = ()

    @property
    def catalogs(self) -> dict[str, Catalog]:
        """The catalogs of the training datasets, by dataset id."""
        return {dataset.catalog.dataset_id: dataset.catalog for dataset in self.datasets}

    @property
    def latents(self) -> dict[str, LatentCache]:
        """The latent caches of the training datasets, by dataset id."""
        return {dataset.catalog.dataset_id: dataset.latents for dataset in self.datasets}

    @property
    def mirrored(self) -> dict[str, LatentCache]:
        """The latent caches of mirrored images, by dataset id, for datasets with `flip`."""
        return {dataset.catalog.dataset_id: dataset.mirrored for dataset in self.datasets if dataset.mirrored}


def workers_for(options: DataOptions, *, ranks: Ranks, reporter: Reporter) -> CacheWorkers:
    """The number of threads that is set, otherwise one per CPU core."""
    threads = options.max_workers or os.cpu_count() or 1
    connections = options.aws_max_pool_connections or max(LEAST_AT_ONCE, threads)
    return CacheWorkers(ranks=ranks, threads=threads, connections=connections, reporter=reporter)


def open_catalogs(
    files: DatasetFile, *, parts: ModelComponents, seed: int, workers: CacheWorkers
) -> tuple[Catalog, ...]:
    """The catalog of each dataset; the first rank reads the image headers, the others read its result.

    Raises DataError if a dataset has nothing to train on.
    """
    if workers.ranks.rank != 0:
        workers.ranks.barrier()
    catalogs = tuple(
        open_catalog(
            dataset,
            source=source,
            table=table,
            metadata=metadata_store(dataset, latents=files.latents_of(dataset)),
            seed=seed,
            workers=workers.threads_for(dataset),
            reporter=workers.reporter,
            longest_edge_px=parts.longest_edge_px,
            filters=files.text_store_of(dataset).caption_filter_list,
        )
        for dataset in files.all_images
        for source, table in [_images(dataset, files=files, workers=workers)]
    )
    if workers.ranks.rank == 0:
        workers.ranks.barrier()
    return catalogs


def _images(
    dataset: ImageDataset, *, files: DatasetFile, workers: CacheWorkers
) -> tuple[SourceStore, ImageTable | None]:
    """The store of the images, listed again unless that is to be skipped, and their table, if any."""
    is_first = workers.ranks.rank == 0
    source, table = open_images(dataset, ask=is_first, threads=workers.threads, reporter=workers.reporter)
    metadata = metadata_store(dataset, latents=files.latents_of(dataset))
    if not dataset.trusted.isdisjoint(("aspect", "metadata")):
        return CachedListing(source, metadata=metadata), table
    if is_first:
        clear_listing(metadata)
    return source, table


def captions_of(files: DatasetFile, *, catalogs: Iterable[Catalog], store: TextEmbedsStore) -> Iterator[str]:
    """Every caption that `store` may lack, repeats included; not of datasets whose text cache is to be trusted."""
    for dataset, catalog in zip(files.all_images, catalogs, strict=True):
        if files.text_store_of(dataset) is store and "text" not in dataset.trusted:
            for index in range(len(catalog)):
                yield from catalog.captions_of(index)


def all_captions(files: DatasetFile, *, catalogs: Sequence[Catalog]) -> tuple[str, ...]:
    """Every caption of `captions_of`, each once."""
    of_stores = (captions_of(files, catalogs=catalogs, store=store) for store in files.text_stores)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(of_stores)))


def warn_long_captions(files: DatasetFile, *, context: RunContext) -> None:
    """Warn on the first rank about truncated captions (see `warn_truncated_captions`)."""
    if context.workers.ranks.rank == 0:
        store = open_cache(files.text_embeds)
        warn_truncated_captions(
            context.captions,
            catalogs=context.catalogs,
            parts=context.text_parts,
            store=store,
            reporter=context.workers.reporter,
        )


def lengths_of_captions(files: DatasetFile, *, context: RunContext) -> Callable[[Catalog], tuple[CaptionLengths, ...]]:
    """A function that returns a dataset's caption lengths; a tokenizer is loaded only if counts are missing."""
    return partial(lengths_by_tokenizer, parts=context.text_parts, store=open_cache(files.text_embeds))


def captions_for_store(store: TextEmbedsStore, *, files: DatasetFile, context: RunContext) -> Iterator[str]:
    """Every caption that `store` holds, repeats included: of the images of datasets that use it.

    The default store also holds the prompts of validation images and the empty caption of caption dropout.
    """
    if store is files.text_embeds:
        yield from (EMPTY_CAPTION, *context.validation_captions)
    yield from captions_of(files, catalogs=context.catalogs, store=store)


def cache_needs(
    files: DatasetFile, *, context: RunContext, options: CacheOptions, look: bool = True
) -> tuple[CacheNeed, ...]:
    """What the caches of captions and of every dataset still need; look: see `latents_needed`."""
    needs: list[CacheNeed] = []
    for text_store in files.text_stores:
        captions = captions_for_store(text_store, files=files, context=context)
        needs += captions_needed(
            captions, parts=context.cached_text_parts, store=open_cache(text_store), options=options, look=look
        )
    for dataset, catalog in zip(files.all_images, context.catalogs, strict=True):
        store = open_cache(files.latents_of(dataset))
        if "vae" not in dataset.trusted:
            sides = sides_of(dataset, catalog)
            needs += [latents_needed(side, part=context.latent_part, store=store, look=look) for side in sides]
    return tuple(needs)


def prepare_text(files: DatasetFile, *, context: RunContext, options: CacheOptions) -> TextCache:
    """Encode the captions that are not cached yet, each into its dataset's store."""
    wanted = [
        CaptionJob(
            captions=tuple(dict.fromkeys(captions_for_store(text_store, files=files, context=context))),
            store=open_cache(text_store),
            write_batch_size=text_store.write_batch_size,
        )
        for text_store in files.text_stores
    ]
    fill_text_cache(
        wanted,
        parts=context.cached_text_parts,
        options=options,
        ranks=context.workers.ranks,
        reporter=context.workers.reporter,
        scan_for_errors=any(dataset.scan_for_errors for dataset in files.all_images),
    )
    stores = [each.store for each in wanted]
    return TextCache(stores, parts=context.frozen_text_parts, assemble=context.family.assemble_text)


def prepare_latents(
    dataset: ImageDataset, *, files: DatasetFile, catalog: Catalog, part: VaeSpec, workers: CacheWorkers
) -> PreparedDataset:
    """Encode the images that are not cached yet; unreadable ones are left out with a warning.

    A trusted cache is used as it is. Raises DataError if no image is left.
    """
    latent_store = files.latents_of(dataset)
    store = open_cache(latent_store)
    if "vae" in dataset.trusted:
        return open_flips(dataset, catalog=catalog, latent_store=latent_store, store=store, part=part)
    rejected = encode_flips(
        dataset, catalog=catalog, latent_store=latent_store, store=store, part=part, workers=workers
    )
    for image in rejected:
        text = f"{dataset.id}: {image.path} is left out: {image.reason}"
        workers.reporter.handle(Notice(level="warning", text=text))
    if workers.ranks.rank == 0:
        remember_rejected(metadata_store(dataset, latents=latent_store), catalog, rejected)
    return open_flips(dataset, catalog=catalog.without(rejected), latent_store=latent_store, store=store, part=part)


def encode_flips(
    dataset: ImageDataset,
    *,
    catalog: Catalog,
    latent_store: EmbedsStore,
    store: CacheStore,
    part: VaeSpec,
    workers: CacheWorkers,
) -> tuple[Rejected, ...]:
    """Encode the images that `store` lacks, and with `flip` the mirrored ones; returns the unreadable ones."""
    rejected: dict[str, Rejected] = {}
    for side in sides_of(dataset, catalog):
        found = fill_latent_cache(
            side,
            part=part,
            store=store,
            vae_batch_size=dataset.vae_batch_size,
            write_batch_size=latent_store.write_batch_size,
            workers=workers.threads_for(dataset),
            ranks=workers.ranks,
            reporter=workers.reporter,
            scan_for_errors=dataset.scan_for_errors,
        )
        rejected |= {image.path: image for image in found}
    return tuple(rejected.values())


def open_flips(
    dataset: ImageDataset, *, catalog: Catalog, latent_store: EmbedsStore, store: CacheStore, part: VaeSpec
) -> PreparedDataset:
    """The dataset with the latents that `encode_flips` wrote."""
    caches = [LatentCache(store, catalog=side, part=part) for side in sides_of(dataset, catalog)]
    return PreparedDataset(
        dataset=dataset,
        latent_store=latent_store,
        catalog=catalog,
        latents=caches[0],
        mirrored=caches[1] if dataset.flip else None,
    )


def sides_of(dataset: ImageDataset, catalog: Catalog) -> tuple[Catalog, ...]:
    """The catalog, and with `flip` also its mirrored copy: all that is encoded of the dataset."""
    return (catalog, replace(catalog, mirrored=True)) if dataset.flip else (catalog,)
