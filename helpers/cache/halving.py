"""Encodes as many images at once as fit in memory, so that a batch size too large slows a run and does not end it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from helpers.device import release_device_memory
from helpers.errors import CacheError
from helpers.models.family import LatentEncoder
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter


class BackoffEncoder:
    """A LatentEncoder whose latents are ready to be kept: fp16, checked; it halves its batch when memory runs out."""

    def __init__(self, encoder: LatentEncoder, *, batch_size: int, paths: Sequence[str], reporter: Reporter) -> None:
        self._encoder = encoder
        self._at_once = batch_size
        self._paths = paths
        self._reporter = reporter

    def encode(self, pixels: Tensor, *, indices: Sequence[int]) -> dict[int, Tensor]:
        """Raw latents [C, h, w] in fp16 of uint8 pixels [B, H, W, 3], by the images' indices [B].

        Raises CacheError naming the image whose latents are no numbers, do not fit in fp16, or need too much memory.
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
                        f"The VAE's latents of {self._paths[index]} are not numbers that 16 bits can hold. "
                        "Its weights do not work in this dtype: try --vae_dtype=fp32."
                    )
                latents[index] = latent
        return latents

    def _try(self, pixels: Tensor) -> Tensor | None:
        """The latents; None where memory ran out, by when what the attempt held is free to go."""
        try:
            return self._encoder.encode(pixels, at_most=self._at_once)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
                raise
            return None

    def _halve(self, count: int, *, size: str, path: str) -> None:
        release_device_memory()
        if count == 1:
            raise CacheError(
                f"There is not enough memory to encode {path} at {size}, alone. "
                "Lower the dataset's resolution, or free memory on the device."
            )
        self._at_once = max(1, min(self._at_once, count // 2))
        text = f"There is not enough memory to encode {count} images of {size} at once: going on with {self._at_once}."
        self._reporter.handle(Notice(text=text, level="warning"))
