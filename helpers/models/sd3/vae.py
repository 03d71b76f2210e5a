"""SD3's VAE: images to raw latents for the cache, and latents to images for validation."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from helpers.config.options.model import PrecisionOptions
from helpers.device import is_out_of_memory
from helpers.models.contexts import hide_bitsandbytes
from helpers.models.family import ModelComponents, VaeSpec
from helpers.models.formats.fingerprint import fingerprint
from helpers.models.loading import WeightFormat, load_weights
from helpers.models.quantization import vae_dtype
from helpers.models.sd3.weights.component_files import (
    folder_identity,
    is_in_file,
    part_identity,
    part_weights,
    read_config,
)

# Increase it whenever the same settings give different latents.
ENCODING_VERSION = "1"
# Above 1024 x 1024 pixels a decoder needs more memory than the transformer leaves free on a common GPU.
TILE_LATENT_PIXELS = 128
SMALL_TILE_LATENT_PIXELS = 64


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    folder: Path
    variant: str | None
    dtype: torch.dtype
    device: torch.device
    images_at_once: int
    downscale: int


def latent_part(
    parts: ModelComponents, precision: PrecisionOptions, device: torch.device, *, vae_batch_size: int = 4
) -> VaeSpec:
    """The VAE; `precision` with its `mixed_precision` resolved for `device`.

    A convolution's rounding depends on the batch size, on CPUs too, so every call of the model gets the same number of
    images: `vae_batch_size` on an accelerator, where short batches are padded, and one on a CPU, where that is not
    slower.
    """
    config = read_config(parts.vae)
    dtype = vae_dtype(precision)
    on_cpu = device.type == "cpu"
    wanted = _Wanted(
        folder=parts.vae,
        variant=parts.weights_variant,
        dtype=dtype,
        device=device,
        images_at_once=1 if on_cpu else vae_batch_size,
        downscale=2 ** (len(config["block_out_channels"]) - 1),
    )
    return VaeSpec(
        identity=_identity(part_identity, wanted),
        earlier_identities=cache(partial(_earlier_identities, wanted)),
        shift=float(config.get("shift_factor") or 0.0),
        scale=float(config["scaling_factor"]),
        channels=int(config["latent_channels"]),
        downscale=wanted.downscale,
        parallel_encodes=torch.get_num_threads() if on_cpu else 1,
        load=partial(KlEncoder, wanted),
    )


def _identity(component: Callable[[Path, str | None], str], wanted: _Wanted) -> str:
    return fingerprint(ENCODING_VERSION, component(wanted.folder, wanted.variant), str(wanted.dtype))


def _earlier_identities(wanted: _Wanted) -> tuple[str, ...]:
    return () if is_in_file(wanted.folder) else (_identity(folder_identity, wanted),)


class KlEncoder:
    """A loaded AutoencoderKL; see `LatentEncoder`."""

    def __init__(self, wanted: _Wanted) -> None:
        with hide_bitsandbytes():
            from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        with torch.device("meta"):
            model: Any = AutoencoderKL.from_config(read_config(wanted.folder))
        weights = part_weights(wanted.folder, wanted.variant)
        self._model: Any = load_weights(
            model, weights, WeightFormat(dtype=wanted.dtype, device=wanted.device), name="VAE"
        )
        self._wanted = wanted

    @torch.no_grad()
    def encode(self, pixels: Tensor, *, at_most: int | None = None) -> Tensor:
        """See `LatentEncoder`: uint8 [B, H, W, 3] -> fp32 [B, C, h, w]."""
        at_once = min(at_most or self._wanted.images_at_once, self._wanted.images_at_once)
        return torch.cat([self._encode_some(some, at_once=at_once) for some in pixels.split(at_once)])

    @torch.no_grad()
    def decode(self, latents: Tensor, *, tiled: bool = False) -> Tensor:
        """See `LatentEncoder`: [B, C, h, w] -> uint8 [B, H, W, 3].

        Images over a megapixel are decoded in tiles; others if `tiled` is set, or the device runs out of memory.
        """
        latents = latents.to(self._wanted.device, self._wanted.dtype)
        images = [self._decode_one(one, tiled=tiled) for one in latents.split(1)]
        colors = (torch.cat(images).float() / 2 + 0.5).clamp(0, 1)
        return (colors * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()

    def _decode_one(self, latents: Tensor, *, tiled: bool) -> Tensor:
        tile = SMALL_TILE_LATENT_PIXELS if tiled else TILE_LATENT_PIXELS
        is_large = latents.shape[-2] * latents.shape[-1] > TILE_LATENT_PIXELS**2
        self._model.use_tiling = tiled or is_large
        self._model.tile_latent_min_size = tile
        self._model.tile_sample_min_size = tile * self._wanted.downscale
        try:
            return self._model.decode(latents).sample
        except (RuntimeError, MemoryError) as error:
            if tiled or not is_out_of_memory(error):
                raise
        return self._decode_one(latents, tiled=True)

    def _encode_some(self, pixels: Tensor, *, at_once: int) -> Tensor:
        filled = pad(pixels, (0, 0) * 3 + (0, at_once - len(pixels)))
        colors = filled.to(self._wanted.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean = self._model.encode(colors.to(self._wanted.dtype)).latent_dist.mean
        return mean[: len(pixels)].float().cpu()
