"""Decodes, encodes and writes images at the same time, so that caching takes as long as the slowest alone."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from helpers.cache.halving import BackoffEncoder
from helpers.cache.keys import Keys
from helpers.cache.writer import ShardWriter
from helpers.data.types import Catalog, Rejected, Size
from helpers.models.family import VaeSpec
from helpers.reporting.progress import Advance
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import SIZE_UNKNOWN

LATENT_OUTPUT = "latents"

Batch = tuple[int, ...]
Pixels = NDArray[np.uint8]


def read_pixels(catalog: Catalog, index: int) -> Pixels | Rejected:
    """Image `index` as it is trained on, [H, W, 3], or why it cannot be."""
    from helpers.data.images.decode import UnreadableImage, decode

    path = catalog.paths[index]
    try:
        content = catalog.source.read(path)
    except OSError as error:
        return Rejected(path, f"can no longer be read: {error.strerror or error}", lasting=False)
    if catalog.size_bytes[index] not in (len(content), SIZE_UNKNOWN):
        return Rejected(path, "changed after its folder was listed; start again to take it in", lasting=False)
    width, height = catalog.sizes[index].tolist()
    try:
        pixels = decode(content, size=Size(width, height), geometry=catalog.geometry(index))
        return np.ascontiguousarray(pixels[:, ::-1]) if catalog.mirrored else pixels
    except UnreadableImage as error:
        return Rejected(path, error.reason)


def encode_batches(
    batches: Sequence[Batch],
    *,
    catalog: Catalog,
    keys: Keys,
    part: VaeSpec,
    writer: ShardWriter,
    workers: int,
    reporter: Reporter,
    advance: Advance,
) -> dict[int, str]:
    """Encode batches of images [indices of one target size] and hand them to `writer`; the reasons of the unreadable.

    `workers` threads decode ahead, `part.parallel_encodes` threads encode. What is in memory is bounded: a few batches.
    """
    encoder = BackoffEncoder(part.load(), batch_size=max(map(len, batches)), paths=catalog.paths, reporter=reporter)
    rejected: dict[int, str] = {}

    def encode(batch: Batch, decoding: Sequence[Future[Pixels | Rejected]]) -> dict[int, str]:
        found = dict(zip(batch, (future.result() for future in decoding), strict=True))
        pixels = {index: image for index, image in found.items() if not isinstance(image, Rejected)}
        if pixels:
            latents = encoder.encode(torch.from_numpy(np.stack(tuple(pixels.values()))), indices=tuple(pixels))
            writer.add({keys[index].decode(): {LATENT_OUTPUT: latent} for index, latent in latents.items()})
        advance(len(batch))
        return {index: image.reason for index, image in found.items() if isinstance(image, Rejected)}

    waiting: deque[Future[dict[int, str]]] = deque()

    def collect() -> None:
        rejected.update(waiting.popleft().result())

    ahead = part.parallel_encodes + 1 + -(-2 * workers // max(map(len, batches)))
    with _threads(workers) as decoders, _encoding_threads(part.parallel_encodes) as encoders:
        for batch in batches:
            decoding = [decoders.submit(read_pixels, catalog, index) for index in batch]
            waiting.append(encoders.submit(encode, batch, decoding))
            if len(waiting) > ahead:
                collect()
        while waiting:
            collect()
    return rejected


@contextmanager
def _threads(count: int, *, initializer: Callable[[], None] | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that finish what they have begun when the block fails, and begin nothing more."""
    pool = ThreadPoolExecutor(count, initializer=initializer)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _encoding_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads to encode in; several compute with one core each, as cores that share an image wait for each other."""
    if count == 1:
        with _threads(1) as pool:
            yield pool
        return
    before = torch.get_num_threads()
    try:
        with _threads(count, initializer=lambda: torch.set_num_threads(1)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
