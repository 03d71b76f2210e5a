"""Encodes every image with the VAE once, so that training neither decodes images nor loads the VAE."""

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from helpers.cache.encode import LATENT_OUTPUT, Batch, encode_batches, read_pixels
from helpers.cache.keys import Keys, identities, latent_key, latent_keys
from helpers.cache.maintenance import download_missing, finalize, open_and_check
from helpers.cache.store import open_tensors
from helpers.cache.writer import ShardWriter
from helpers.data.types import Catalog, Rejected
from helpers.device import release_device_memory
from helpers.errors import CacheError
from helpers.models.family import VaeSpec
from helpers.ranks import Ranks
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore


class LatentCache:
    """Reads a dataset's latents; open it after `fill_latent_cache`, with the catalog used in training."""

    def __init__(self, store: CacheStore, *, catalog: Catalog, part: VaeSpec) -> None:
        self._tensors = open_tensors(store)
        self._catalog = catalog
        self._part = part

    def latents(self, index: int) -> Tensor:
        """Image `index`'s latents as the model expects them, (z - shift) * scale, [C, h, w] in fp32.

        Raises CacheError for an image that was not cached.
        """
        record = self._catalog.record(index)
        try:
            keys = (latent_key(record, vae_identity=identity) for identity in identities(self._part))
            raw = self._tensors.read_first(keys)[LATENT_OUTPUT]
        except KeyError as error:
            raise CacheError(
                f"{record.path} of dataset {record.dataset_id} is not in the latent cache "
                f"{self._tensors.store.describe()}, which was changed during the run. "
                "Start again, without `vae` in skip_file_discovery: what is missing is encoded."
            ) from error
        target = record.geometry.target
        expected = (self._part.channels, target.height // self._part.downscale, target.width // self._part.downscale)
        assert raw.shape == expected, (
            f"the key of {record.path} has latents of shape {tuple(raw.shape)}, not {expected}"
        )
        return (raw.float() - self._part.shift) * self._part.scale


def fill_latent_cache(
    catalog: Catalog,
    *,
    part: VaeSpec,
    store: CacheStore,
    vae_batch_size: int,
    write_batch_size: int,
    workers: int,
    ranks: Ranks,
    reporter: Reporter,
    scan_for_errors: bool = False,
) -> tuple[Rejected, ...]:
    """Encode the images of a catalog that the cache lacks; returns the unreadable ones, the same on all ranks.

    The VAE is loaded only if something is missing, and then released. Ranks divide the images. `workers` threads read
    and decode. Returns when everything is on disk. Raises CacheError if an image's latents are NaN, do not fit in
    memory, or cannot be written.
    """
    keys_of = cache(lambda identity: latent_keys(catalog, vae_identity=identity))
    describe = partial(_image_of, catalog=catalog, part=part, keys_of=keys_of)
    tensors = open_and_check(store, scan_for_errors=scan_for_errors, describe=describe, ranks=ranks, reporter=reporter)
    keys = tensors.keys_held(keys_of, encoder=part)
    mine = np.arange(ranks.rank, len(catalog), ranks.world_size)
    todo = mine[tensors.missing(keys[mine])]
    rejected: dict[int, str] = {}
    if len(todo):
        with (
            stage(reporter, f"encode images of {catalog.dataset_id}", total=len(todo), unit="images") as advance,
            ShardWriter(store, rank=ranks.rank, write_batch_size=write_batch_size) as writer,
        ):
            batches = _batches(catalog, todo, size=vae_batch_size)
            rejected = encode_batches(
                batches,
                catalog=catalog,
                keys=keys,
                part=part,
                writer=writer,
                workers=workers,
                reporter=reporter,
                advance=advance,
            )
        release_device_memory()
    complete = finalize(store, ranks=ranks)
    download_missing(complete, keys, ranks=ranks, reporter=reporter)
    lacking = complete.missing(keys).nonzero()[0].tolist()
    return tuple(_rejected(catalog, index, rejected.get(index)) for index in lacking)


def _image_of(key: str, *, catalog: Catalog, part: VaeSpec, keys_of: Callable[[str], Keys]) -> str | None:
    """The image whose latent has a key, for messages; None where the catalog has none."""
    for identity in identities(part):
        hits = (keys_of(identity) == key.encode()).nonzero()[0]
        if len(hits):
            return f"{catalog.paths[hits[0]]} of dataset {catalog.dataset_id}"
    return None


def _rejected(catalog: Catalog, index: int, reason: str | None) -> Rejected:
    """Why an image has no latents; if another rank failed to read it, it is read again for the reason."""
    if reason is None:
        found = read_pixels(catalog, index)
        reason = found.reason if isinstance(found, Rejected) else "could not be encoded by another process"
    return Rejected(path=catalog.paths[index], reason=reason)


def _batches(catalog: Catalog, indices: NDArray[np.int64], *, size: int) -> Sequence[Batch]:
    """Batches of at most `size` images of one target size, otherwise in the catalog's order."""
    edges = catalog.geometries[indices]
    targets = np.stack([edges[:, 4] - edges[:, 2], edges[:, 5] - edges[:, 3]], axis=1)
    _, groups = np.unique(targets, axis=0, return_inverse=True)
    batches: list[Batch] = []
    for group in range(int(groups.max()) + 1):
        members = indices[groups == group].tolist()
        batches += [tuple(members[first : first + size]) for first in range(0, len(members), size)]
    return batches
