"""Decodes, encodes and writes images at the same time, so that caching takes only as long as the slowest of these.

If memory runs out, the batch is halved: a batch size that is too large slows a run, but does not end it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.cache.keys import Keys
from helpers.cache.writer import ShardWriter
from helpers.data.types import Catalog, Rejected, Size
from helpers.device import is_out_of_memory, release_device_memory
from helpers.errors import CacheError
from helpers.models.family import LatentEncoder, VaeSpec
from helpers.reporting.events import Notice
from helpers.reporting.progress import Advance
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import SIZE_UNKNOWN

LATENT_OUTPUT = "latents"

Batch = tuple[int, ...]
Pixels = NDArray[np.uint8]


def read_pixels(catalog: Catalog, index: int) -> Pixels | Rejected:
    """Image `index` resized and cropped for training, [H, W, 3], or why it cannot be read."""
    from helpers.data.images.decode import UnreadableImage, decode

    path = catalog.paths[index]
    try:
        content = catalog.source.read(path)
    except OSError as error:
        return Rejected(path, f"can no longer be read: {error.strerror or error}", lasting=False)
    if catalog.size_bytes[index] not in (len(content), SIZE_UNKNOWN):
        return Rejected(path, "changed after its folder was listed; start again to include it", lasting=False)
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
    """Encode batches of images [indices of one target size] into `writer`; returns why images could not be read.

    `workers` threads decode ahead, `part.parallel_encodes` threads encode. At most a few batches are in memory.
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
    """A pool that, when the block fails, finishes running tasks and starts no more."""
    pool = ThreadPoolExecutor(count, initializer=initializer)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _encoding_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads to encode in; several use one core each, because cores that share an image wait for each other."""
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


class BackoffEncoder:
    """A LatentEncoder whose latents are checked and fp16; it halves its batch when memory runs out."""

    def __init__(self, encoder: LatentEncoder, *, batch_size: int, paths: Sequence[str], reporter: Reporter) -> None:
        self._encoder = encoder
        self._at_once = batch_size
        self._paths = paths
        self._reporter = reporter

    def encode(self, pixels: Tensor, *, indices: Sequence[int]) -> dict[int, Tensor]:
        """Raw latents [C, h, w] in fp16 of uint8 pixels [B, H, W, 3], by the images' indices [B].

        Raises CacheError naming an image whose latents are NaN, overflow fp16, or need too much memory.
        """
        latents: dict[int, Tensor] = {}
        while len(latents) < len(indices):
            done = len(latents)
            count = min(self._at_once, len(indices) - done)
            encoded = self._try(pixels[done : done + count])
            if encoded is None:
                self._halve(count, size=f"{pixels.shape[2]}x{pixels.shape[1]}", path=self._paths[indices[done]])
                continue
            half = encoded.to(torch.float16)
            for index, latent in zip(indices[done : done + count], half, strict=True):
                if not latent.isfinite().all():
                    raise CacheError(
                        f"The VAE's latents of {self._paths[index]} are NaN or too large for 16 bits. "
                        "The VAE does not work in this dtype: try --vae_dtype=fp32."
                    )
                latents[index] = latent
        return latents

    def _try(self, pixels: Tensor) -> Tensor | None:
        """The latents; None if memory ran out, when the memory of the attempt can be released."""
        try:
            return self._encoder.encode(pixels, at_most=self._at_once)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, count: int, *, size: str, path: str) -> None:
        release_device_memory()
        if count == 1:
            raise CacheError(
                f"There is not enough memory to encode {path} at {size}, even alone. "
                "Lower the dataset's resolution, or free memory on the device."
            )
        self._at_once = max(1, min(self._at_once, count // 2))
        text = (
            f"There is not enough memory to encode {count} images of {size} at once: continuing with {self._at_once}."
        )
        self._reporter.handle(Notice(text=text, level="warning"))
