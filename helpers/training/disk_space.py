"""Checks the disk space for caches and checkpoints before the work begins, not after hours of it."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.cache.keys import latent_keys, text_keys
from helpers.cache.store import open_tensors
from helpers.config.optimizers import KINDS
from helpers.config.options.data import CacheOptions
from helpers.data.types import Catalog
from helpers.errors import CacheError, CheckpointError
from helpers.models.family import TextEncoderSpec, VaeSpec
from helpers.reporting.format import format_bytes
from helpers.storage.protocols import CacheStore
from helpers.training.checkpoint.checkpoint import complete_checkpoints

LATENT_BYTES = 2
ENTRY_BYTES = 250
"""A shard's header per tensor: its name, offset and checksum."""

COMPRESSED = 0.7
"""Size of a compressed caption relative to the original, with `compress_disk_cache` (benchmarks/cache_size.py)."""


@dataclass(frozen=True, kw_only=True)
class CacheNeed:
    """What a cache still needs: `missing` of `total` images or captions take `size_bytes` in `folder`.

    name: of a dataset or of a text encoder.
    """

    name: str
    unit: str
    folder: Path
    total: int
    missing: int
    size_bytes: int


def latents_needed(catalog: Catalog, *, part: VaeSpec, store: CacheStore, look: bool = True) -> CacheNeed:
    """What the cache still needs for a dataset's latents; only its index is read.

    look: False counts all as missing, an upper bound that needs no reading.
    """
    missing = np.ones(len(catalog), bool)
    if look:
        tensors = open_tensors(store)
        keys = tensors.keys_held(lambda identity: latent_keys(catalog, vae_identity=identity), encoder=part)
        missing = tensors.missing(keys)
    edges = catalog.geometries[missing].astype("int64")
    pixels = (edges[:, 4] - edges[:, 2]) * (edges[:, 5] - edges[:, 3])
    tensors = part.channels * LATENT_BYTES * int((pixels // part.downscale**2).sum())
    lacking = int(missing.sum())
    return CacheNeed(
        name=catalog.dataset_id,
        unit="images",
        folder=store.folder,
        total=len(catalog),
        missing=lacking,
        size_bytes=tensors + ENTRY_BYTES * lacking,
    )


def captions_needed(
    captions: Iterable[str],
    *,
    parts: Sequence[TextEncoderSpec],
    store: CacheStore,
    options: CacheOptions,
    look: bool = True,
) -> tuple[CacheNeed, ...]:
    """What the cache still needs for each text encoder. captions: may repeat. look: see `latents_needed`."""
    wanted = tuple(dict.fromkeys(captions))
    share = COMPRESSED if options.compress_disk_cache else 1.0
    needs = []
    for part in parts:
        missing = len(wanted)
        if look:
            tensors = open_tensors(store)
            keys = tensors.keys_held(lambda identity: text_keys(wanted, part_identity=identity), encoder=part)
            missing = int(tensors.missing(keys).sum())
        size_bytes = missing * (int(share * part.bytes_per_caption) + ENTRY_BYTES)
        needs.append(
            CacheNeed(
                name=part.name,
                unit="captions",
                folder=store.folder,
                total=len(wanted),
                missing=missing,
                size_bytes=size_bytes,
            )
        )
    return tuple(needs)


def free_bytes(folder: Path) -> int:
    """The free bytes for this user where `folder` is or will be."""
    return shutil.disk_usage(_existing(folder)).free


def check_cache_space(
    cache_needs: Callable[..., Sequence[CacheNeed]], *, free: Callable[[Path], int] = free_bytes
) -> None:
    """Raise CacheError, with the sizes and the fix, if the caches on one disk need more than is `free` there.

    cache_needs: returns the needs for a value of `look`. If the upper bound fits, the caches are not read.
    """
    if _shortage(cache_needs(look=False), free=free) and (short := _shortage(cache_needs(look=True), free=free)):
        raise CacheError(short)


def _shortage(needs: Iterable[CacheNeed], *, free: Callable[[Path], int]) -> str:
    """The error message for the first disk that is too small; empty if all have enough space."""
    by_disk: dict[int, list[CacheNeed]] = {}
    for need in needs:
        by_disk.setdefault(os.stat(_existing(need.folder)).st_dev, []).append(need)
    for on_disk in by_disk.values():
        needed = sum(need.size_bytes for need in on_disk)
        available = free(on_disk[0].folder)
        if needed > available:
            folders = " and ".join(sorted({str(need.folder) for need in on_disk}))
            parts = ", ".join(f"{need.name} {format_bytes(need.size_bytes)}" for need in on_disk if need.size_bytes)
            return (
                f"The caches need {format_bytes(needed)} more ({parts}), but only {format_bytes(available)} are free in"
                f" {folders}. Free some space there, set a folder on another disk (cache_dir_vae, or cache_dir of the"
                " text_embeds entry), set compress_disk_cache for captions, or train at a smaller resolution."
            )
    return ""


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def checkpoint_bytes(weights: Iterable[Tensor], *, optimizer: str, keeps_average: bool) -> int:
    """The size of a checkpoint: the trained `weights`, the optimizer state and the average in fp32."""
    extra = KINDS[optimizer].state_bytes_per_param + (torch.float32.itemsize if keeps_average else 0)
    return sum(weight.numel() * (weight.element_size() + extra) for weight in weights)


def check_checkpoint_space(
    output_dir: Path, *, each_bytes: int, saves: int, keep: int, free: Callable[[Path], int] = free_bytes
) -> None:
    """Raise CheckpointError, with the sizes and the fix, if the disk has no space for the remaining checkpoints.

    saves: how often the run will still save. keep: how many are kept; the oldest is deleted after the latest is
    complete.
    """
    existing = len(complete_checkpoints(output_dir))
    more = min(saves, max(0, keep - existing) + 1)
    if (available := free(output_dir)) < more * each_bytes:
        raise CheckpointError(
            f"The checkpoints need {format_bytes(more * each_bytes)} more ({more} of {format_bytes(each_bytes)} each),"
            f" but only {format_bytes(available)} are free in {output_dir}. Free some space there, set a folder on"
            " another disk (OUTPUT_DIR), or keep fewer (CHECKPOINTING_LIMIT=1 needs space for two while it saves)."
        )
