"""Opens the stores that the dataset file names: sources of images, and caches."""

from functools import partial

from helpers.config.datasets.types import (
    CsvDataset,
    EmbedsStore,
    HuggingFaceDataset,
    ImageDataset,
    LocalDataset,
    S3Dataset,
    S3Settings,
)
from helpers.config.env.aws import aws_environment
from helpers.data.sources.huggingface import open_embedded
from helpers.data.sources.image_table import ImageTable
from helpers.data.sources.table_files import read_table
from helpers.data.sources.urls import open_downloaded
from helpers.models.hub import download_dataset
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache, LocalSource
from helpers.storage.protocols import CacheStore, SourceStore
from helpers.storage.s3 import BucketAddress, BucketCache, BucketSource

LEAST_AT_ONCE = 16
"""The minimum number of concurrent downloads, even with few cores: they mostly wait."""


def open_images(
    dataset: ImageDataset, *, ask: bool, threads: int, reporter: Reporter
) -> tuple[SourceStore, ImageTable | None]:
    """The source of the dataset's images and captions, and the table about them, if any.

    ask: whether this process downloads missing images; threads: the number of concurrent downloads, at least
    LEAST_AT_ONCE.
    """
    match dataset:
        case CsvDataset():
            return open_downloaded(dataset, ask=ask, at_once=max(threads, LEAST_AT_ONCE), reporter=reporter)
        case HuggingFaceDataset():
            folder = dataset.folder or download_dataset(
                dataset.dataset_name, split=dataset.split, revision=dataset.revision
            )
            return open_embedded(dataset, folder=folder)
        case _:
            source = open_source(dataset)
            return source, _table_of(dataset, source)


def _table_of(dataset: ImageDataset, source: SourceStore) -> ImageTable | None:
    """The table about the dataset's images: a local file, or one in their bucket."""
    match dataset:
        case LocalDataset(parquet=file) if file is not None:
            return read_table(file.path, columns=file, name=str(file.path))
        case S3Dataset(parquet=file) if file is not None:
            read = partial(source.read, file.path)
            return read_table(read, columns=file, name=file.path, where=f" in {source.describe()}")
        case _:
            return None


def open_source(dataset: ImageDataset) -> SourceStore:
    """The source of the dataset's images and captions: a folder or a bucket."""
    match dataset:
        case LocalDataset():
            return LocalSource(dataset.instance_data_dir)
        case S3Dataset():
            return BucketSource(_address(dataset, entry=dataset.id))
        case unknown:
            raise AssertionError(f"no source for a {type(unknown).__name__}")


def open_cache(store: EmbedsStore, *within: str) -> CacheStore:
    """The store of cached embeds, or its subfolder `within`."""
    folder = store.cache_dir.joinpath(*within)
    if isinstance(store, S3Settings):
        return BucketCache(_address(store, entry=store.id).under(*within), mirror=folder)
    return LocalCache(folder)


def metadata_store(dataset: ImageDataset, *, latents: EmbedsStore) -> CacheStore:
    """The cache of a dataset's headers and captions: next to its latents, under the dataset's id."""
    return open_cache(latents, "metadata", dataset.id)


def epoch_crop_store(dataset: ImageDataset, *, latents: EmbedsStore, seed: int, epoch: int) -> CacheStore:
    """The cache of the random crops of one epoch, kept as long as they are needed."""
    return open_cache(latents, "epochs", dataset.id, f"seed-{seed}-epoch-{epoch}")


def _address(settings: S3Settings, *, entry: str) -> BucketAddress:
    environment = aws_environment()
    access, secret = settings.aws_access_key_id, settings.aws_secret_access_key
    own = (access.get_secret_value(), secret.get_secret_value(), None) if access and secret else None
    return BucketAddress(
        entry=entry,
        bucket=settings.aws_bucket_name,
        prefix=settings.aws_data_prefix,
        endpoint=settings.aws_endpoint_url or environment.endpoint,
        region=settings.aws_region_name or environment.region,
        credentials=own or environment.credentials,
    )
