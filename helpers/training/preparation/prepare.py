"""From the dataset file to caches that hold all a run will read: the road before the first step."""

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
from helpers.data.kept_listing import CachedListing, clear_listing
from helpers.data.sources import open as places
from helpers.data.sources.image_table import ImageTable
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
from helpers.training.preparation.caption_lengths import lengths_by_tokenizer, tell_long_captions


@dataclass(frozen=True, kw_only=True)
class CacheWorkers:
    """Who prepares: this process among its ranks, with so many threads, and who is told of it.

    connections: threads for images that are far away, which mostly wait.
    """

    ranks: Ranks
    threads: int
    connections: int
    reporter: Reporter

    def threads_for(self, dataset: ImageDataset) -> int:
        """So many of its images are read and decoded at once."""
        return self.connections if isinstance(dataset, S3Dataset) else self.threads


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a run finds before it encodes anything: the engine, the model's places, and all images and captions.

    catalogs: of every dataset, also of those kept back. captions: of all of them, each once. drawn_captions: of
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
    drawn_captions: tuple[str, ...]

    @property
    def frozen_text_parts(self) -> tuple[TextEncoderSpec, ...]:
        """The text encoders whose outputs for a caption stay the same."""
        return tuple(part for part in self.text_parts if not part.trains)

    @property
    def cached_text_parts(self) -> tuple[TextEncoderSpec, ...]:
        """The text encoders whose outputs are cached."""
        return tuple(part for part in self.frozen_text_parts if not part.is_constant)


@dataclass(frozen=True, kw_only=True)
class PreparedDataset:
    """A dataset of which every image has its latents, kept in `place`.

    mirrored: left for right, where it shows both sides.
    """

    dataset: ImageDataset
    latent_store: EmbedsStore
    catalog: Catalog
    latents: LatentCache
    mirrored: LatentCache | None = None


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """All that a run stands on before its model is loaded: the engine, the model's places, and filled caches.

    files: what was asked for. datasets: what is trained on. kept_back: what never is, by whose loss others see what
    was learned.
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
    kept_back: tuple[PreparedDataset, ...] = ()

    @property
    def catalogs(self) -> dict[str, Catalog]:
        """The catalogs of what is trained on, by dataset id."""
        return {dataset.catalog.dataset_id: dataset.catalog for dataset in self.datasets}

    @property
    def latents(self) -> dict[str, LatentCache]:
        """The latent caches of what is trained on, by dataset id."""
        return {dataset.catalog.dataset_id: dataset.latents for dataset in self.datasets}

    @property
    def mirrored(self) -> dict[str, LatentCache]:
        """The same left for right, of those that show both sides."""
        return {dataset.catalog.dataset_id: dataset.mirrored for dataset in self.datasets if dataset.mirrored}


def workers_for(options: DataOptions, *, ranks: Ranks, reporter: Reporter) -> CacheWorkers:
    """As many threads as asked for, else one for each of the machine's processor cores."""
    threads = options.max_workers or os.cpu_count() or 1
    connections = options.aws_max_pool_connections or max(places.LEAST_AT_ONCE, threads)
    return CacheWorkers(ranks=ranks, threads=threads, connections=connections, reporter=reporter)


def open_catalogs(
    files: DatasetFile, *, parts: ModelComponents, seed: int, workers: CacheWorkers
) -> tuple[Catalog, ...]:
    """What each prepared dataset has; the first rank reads the headers, the others what it found.

    Raises DataError where a dataset has nothing to train on.
    """
    if workers.ranks.rank != 0:
        workers.ranks.barrier()
    catalogs = tuple(
        open_catalog(
            dataset,
            source=source,
            table=table,
            metadata=places.metadata_store(dataset, latents=files.latents_of(dataset)),
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
    """Where the images are, listed again unless that is to be skipped, and the table about them, if any."""
    is_first = workers.ranks.rank == 0
    source, table = places.open_images(dataset, ask=is_first, threads=workers.threads, reporter=workers.reporter)
    metadata = places.metadata_store(dataset, latents=files.latents_of(dataset))
    if not dataset.trusted.isdisjoint(("aspect", "metadata")):
        return CachedListing(source, metadata=metadata), table
    if is_first:
        clear_listing(metadata)
    return source, table


def captions_of(files: DatasetFile, *, catalogs: Iterable[Catalog], store: TextEmbedsStore) -> Iterator[str]:
    """Every caption that `store` may lack, as often as it stands: not of datasets that say it is to be trusted."""
    for dataset, catalog in zip(files.all_images, catalogs, strict=True):
        if files.text_store_of(dataset) is store and "text" not in dataset.trusted:
            for index in range(len(catalog)):
                yield from catalog.captions_of(index)


def all_captions(files: DatasetFile, *, catalogs: Sequence[Catalog]) -> tuple[str, ...]:
    """Every caption of `captions_of`, each once."""
    of_stores = (captions_of(files, catalogs=catalogs, store=store) for store in files.text_stores)
    return tuple(dict.fromkeys(itertools.chain.from_iterable(of_stores)))


def warn_long_captions(files: DatasetFile, *, context: RunContext) -> None:
    """Have the first rank say which captions are cut (see `tell_long_captions`)."""
    if context.workers.ranks.rank == 0:
        store = places.open_cache(files.text_embeds)
        tell_long_captions(
            context.captions,
            catalogs=context.catalogs,
            parts=context.text_parts,
            store=store,
            reporter=context.workers.reporter,
        )


def lengths_of_captions(files: DatasetFile, *, context: RunContext) -> Callable[[Catalog], tuple[CaptionLengths, ...]]:
    """What tells how long a dataset's captions are; a tokenizer is loaded only where it has to count."""
    return partial(lengths_by_tokenizer, parts=context.text_parts, store=places.open_cache(files.text_embeds))


def captions_for_store(store: TextEmbedsStore, *, files: DatasetFile, context: RunContext) -> Iterator[str]:
    """Every caption that this place keeps, as often as it stands: of the images of datasets that name it.

    The default place keeps those of validation images too, and the empty one that caption dropout trains with.
    """
    if store is files.text_embeds:
        yield from (EMPTY_CAPTION, *context.drawn_captions)
    yield from captions_of(files, catalogs=context.catalogs, store=store)


def cache_needs(
    files: DatasetFile, *, context: RunContext, options: CacheOptions, look: bool = True
) -> tuple[CacheNeed, ...]:
    """What the caches of captions and of every dataset still lack; look: False tells the most that may be."""
    needs: list[CacheNeed] = []
    for place in files.text_stores:
        captions = captions_for_store(place, files=files, context=context)
        needs += captions_needed(
            captions, parts=context.cached_text_parts, store=places.open_cache(place), options=options, look=look
        )
    for dataset, catalog in zip(files.all_images, context.catalogs, strict=True):
        store = places.open_cache(files.latents_of(dataset))
        if "vae" not in dataset.trusted:
            sides = _sides(dataset, catalog)
            needs += [latents_needed(side, part=context.latent_part, store=store, look=look) for side in sides]
    return tuple(needs)


def prepare_text(files: DatasetFile, *, context: RunContext, options: CacheOptions) -> TextCache:
    """Encode what is not cached yet of every image's captions, each in its dataset's place."""
    wanted = [
        CaptionJob(
            captions=tuple(dict.fromkeys(captions_for_store(place, files=files, context=context))),
            store=places.open_cache(place),
            write_batch_size=place.write_batch_size,
        )
        for place in files.text_stores
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
    """Encode the images that are not cached yet; those that turn out unreadable are left out, by name.

    A cache that is to be trusted is taken as it is.

    Raises DataError where none is left.
    """
    place = files.latents_of(dataset)
    store = places.open_cache(place)
    if "vae" in dataset.trusted:
        return open_flips(dataset, catalog=catalog, place=place, store=store, part=part)
    rejected = encode_flips(dataset, catalog=catalog, place=place, store=store, part=part, workers=workers)
    for image in rejected:
        text = f"{dataset.id}: {image.path} is left out: {image.reason}"
        workers.reporter.handle(Notice(level="warning", text=text))
    if workers.ranks.rank == 0:
        remember_rejected(places.metadata_store(dataset, latents=place), catalog, rejected)
    return open_flips(dataset, catalog=catalog.without(rejected), place=place, store=store, part=part)


def encode_flips(
    dataset: ImageDataset,
    *,
    catalog: Catalog,
    place: EmbedsStore,
    store: CacheStore,
    part: VaeSpec,
    workers: CacheWorkers,
) -> tuple[Rejected, ...]:
    """Encode what `store` lacks of the images, and with `flip` of the same left for right; those unreadable."""
    rejected: dict[str, Rejected] = {}
    for side in _sides(dataset, catalog):
        found = fill_latent_cache(
            side,
            part=part,
            store=store,
            vae_batch_size=dataset.vae_batch_size,
            write_batch_size=place.write_batch_size,
            workers=workers.threads_for(dataset),
            ranks=workers.ranks,
            reporter=workers.reporter,
            scan_for_errors=dataset.scan_for_errors,
        )
        rejected |= {image.path: image for image in found}
    return tuple(rejected.values())


def open_flips(
    dataset: ImageDataset, *, catalog: Catalog, place: EmbedsStore, store: CacheStore, part: VaeSpec
) -> PreparedDataset:
    """The dataset with what `encode_flips` made of it."""
    caches = [LatentCache(store, catalog=side, part=part) for side in _sides(dataset, catalog)]
    return PreparedDataset(
        dataset=dataset,
        latent_store=place,
        catalog=catalog,
        latents=caches[0],
        mirrored=caches[1] if dataset.flip else None,
    )


def _sides(dataset: ImageDataset, catalog: Catalog) -> tuple[Catalog, ...]:
    return (catalog, replace(catalog, mirrored=True)) if dataset.flip else (catalog,)
