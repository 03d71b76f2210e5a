"""From what the dataset file says of places to the stores that are read and written."""

from helpers.config.aws_rules import credentials_of
from helpers.config.dataset_types import BucketKeys, EmbedsStore, ImageDataset, LocalDataset, S3Dataset
from helpers.storage.bucket import BucketAddress, BucketCache, BucketSource
from helpers.storage.local import LocalCache, LocalSource
from helpers.storage.protocols import CacheStore, SourceStore


def source_of(dataset: ImageDataset) -> SourceStore:
    """Where the data set's images and captions are."""
    match dataset:
        case LocalDataset():
            return LocalSource(dataset.instance_data_dir)
        case S3Dataset():
            return BucketSource(_address(dataset))
        case unknown:
            raise AssertionError(f"no place is known for a {type(unknown).__name__}")


def cache_of(store: EmbedsStore, *within: str) -> CacheStore:
    """A place for what was encoded, or the part of it that `within` names."""
    folder = store.cache_dir.joinpath(*within)
    if isinstance(store, BucketKeys):
        return BucketCache(_address(store).under(*within), mirror=folder)
    return LocalCache(folder)


def metadata_of(dataset: ImageDataset, *, latents: EmbedsStore) -> CacheStore:
    """Where a data set's headers and captions are remembered: beside its latents, under its own name."""
    return cache_of(latents, "metadata", dataset.id)


def crops_of(dataset: ImageDataset, *, latents: EmbedsStore, seed: int, epoch: int) -> CacheStore:
    """Where the random crops of one epoch are kept, for as long as they are of use."""
    return cache_of(latents, "epochs", dataset.id, f"seed-{seed}-epoch-{epoch}")


def _address(said: BucketKeys) -> BucketAddress:
    return BucketAddress(
        bucket=said.aws_bucket_name,
        prefix=said.aws_data_prefix,
        endpoint=said.aws_endpoint_url,
        region=said.aws_region_name,
        credentials=credentials_of(said),
    )
