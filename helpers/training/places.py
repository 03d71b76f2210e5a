"""From what the dataset file says of places to the stores that are read and written."""

from helpers.config.dataset_types import ImageDataset, LocalDataset, TextEmbedsStore
from helpers.storage.local import LocalCache, LocalSource
from helpers.storage.protocols import CacheStore, SourceStore


def source_of(dataset: ImageDataset) -> SourceStore:
    """Where the data set's images and captions are."""
    match dataset:
        case LocalDataset():
            return LocalSource(dataset.instance_data_dir)
        case unknown:
            raise AssertionError(f"no place is known for a {type(unknown).__name__}")


def latents_of(dataset: ImageDataset) -> CacheStore:
    """Where the data set's encoded images are kept."""
    return LocalCache(dataset.cache_dir_vae)


def metadata_of(dataset: ImageDataset) -> CacheStore:
    """Where a data set's headers and captions are remembered: beside its latents, under its own name."""
    return LocalCache(dataset.cache_dir_vae / "metadata" / dataset.id)


def crops_of(dataset: ImageDataset, *, seed: int, epoch: int) -> CacheStore:
    """Where the random crops of one epoch are kept, for as long as they are of use."""
    return LocalCache(dataset.cache_dir_vae / "epochs" / dataset.id / f"seed-{seed}-epoch-{epoch}")


def texts_of(store: TextEmbedsStore) -> CacheStore:
    """Where encoded captions are kept."""
    return LocalCache(store.cache_dir)
