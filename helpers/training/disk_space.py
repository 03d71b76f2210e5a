"""What the caches still need of the disk, so that a full one is told of before hours of encoding instead of after."""

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
"""What a shard's header says of a tensor: its name, place and checksum."""

COMPRESSED = 0.7
"""The share that `compress_disk_cache` leaves of a caption (benchmarks/cache_size.py)."""


@dataclass(frozen=True, kw_only=True)
class CacheNeed:
    """What a cache lacks: `missing` of `total` images or captions, whose tensors take `size_bytes` in `folder`.

    name: of a dataset, or of a text encoder.
    """

    name: str
    unit: str
    folder: Path
    total: int
    missing: int
    size_bytes: int


def latents_needed(catalog: Catalog, *, part: VaeSpec, store: CacheStore, look: bool = True) -> CacheNeed:
    """What the cache lacks of a dataset's latents; nothing of it is read but its index.

    look: False takes all as missing, which tells the most that may be needed, at once.
    """
    missing = np.ones(len(catalog), bool)
    if look:
        missing = open_tensors(store).missing(latent_keys(catalog, vae_identity=part.identity))
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
    """What the cache lacks of each text encoder's outputs; captions: as often as they stand. look: as above."""
    wanted = tuple(dict.fromkeys(captions))
    share = COMPRESSED if options.compress_disk_cache else 1.0
    needs = []
    for part in parts:
        missing = len(wanted)
        if look:
            missing = int(open_tensors(store).missing(text_keys(wanted, part_identity=part.identity)).sum())
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
    """What this user may still write where `folder` is or will be."""
    return shutil.disk_usage(_existing(folder)).free


def check_cache_space(
    needs_of: Callable[..., Sequence[CacheNeed]], *, free: Callable[[Path], int] = free_bytes
) -> None:
    """Raise CacheError where caches on one disk need more than is `free` there, with the figures and the fix.

    needs_of: what they need (look). With room for all that they could need, nobody looks at what they hold.
    """
    if _short_of_room(needs_of(look=False), free=free) and (short := _short_of_room(needs_of(look=True), free=free)):
        raise CacheError(short)


def _short_of_room(needs: Iterable[CacheNeed], *, free: Callable[[Path], int]) -> str:
    """What to tell the person of the first disk that is too small; nothing where there is room."""
    by_disk: dict[int, list[CacheNeed]] = {}
    for need in needs:
        by_disk.setdefault(os.stat(_existing(need.folder)).st_dev, []).append(need)
    for together in by_disk.values():
        needed = sum(need.size_bytes for need in together)
        room = free(together[0].folder)
        if needed > room:
            folders = " and ".join(sorted({str(need.folder) for need in together}))
            parts = ", ".join(f"{need.name} {format_bytes(need.size_bytes)}" for need in together if need.size_bytes)
            return (
                f"The caches need {format_bytes(needed)} more ({parts}), but only {format_bytes(room)} are free in"
                f" {folders}. Free some space there, name a folder on another disk (cache_dir_vae, or cache_dir of the"
                " text_embeds entry), set compress_disk_cache for captions, or train at a smaller resolution."
            )
    return ""


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def checkpoint_bytes(weights: Iterable[Tensor], *, optimizer: str, keeps_average: bool) -> int:
    """What a checkpoint of trained `weights` takes: they, what the optimizer remembers, and their average in fp32."""
    beside = KINDS[optimizer].state_bytes_per_param + (torch.float32.itemsize if keeps_average else 0)
    return sum(weight.numel() * (weight.element_size() + beside) for weight in weights)


def check_checkpoint_space(
    output_dir: Path, *, each_bytes: int, saves: int, keep: int, free: Callable[[Path], int] = free_bytes
) -> None:
    """Raise CheckpointError where the disk has no room for the checkpoints to come, with the figures and the fix.

    saves: how often the run will still save. keep: how many stand; the latest is complete before the oldest goes.
    """
    standing = len(complete_checkpoints(output_dir))
    more = min(saves, max(0, keep - standing) + 1)
    if (room := free(output_dir)) < more * each_bytes:
        raise CheckpointError(
            f"The checkpoints need {format_bytes(more * each_bytes)} more ({more} of {format_bytes(each_bytes)} each),"
            f" but only {format_bytes(room)} are free in {output_dir}. Free some space there, name a folder on another"
            " disk (OUTPUT_DIR), or keep fewer (CHECKPOINTING_LIMIT=1 needs room for two while it saves)."
        )
