"""Train the demo pipeline's autoencoder; the toolkit itself does not train a VAE.

`python -m tools.demo_model.train_vae DATA_FOLDER OUTPUT_FOLDER --minutes 30`; the same command resumes a stopped
training.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from tools.demo_model.common import Average, Clock, load_state, optimizers_for, save_state, set_rate, yield_to_others
from tools.demo_model.data import IconImage, load

SHAPE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 32, 96, 128),
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "sample_size": 64,
}
FIRST_LOG_VARIANCE = -6.0
KL_WEIGHT, SQUARE_WEIGHT, EDGE_WEIGHT = 2e-4, 4.0, 0.5


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """[N, 3, H, W] in -1 to 1 of [N, H, W, 3] uint8."""
    return (
        torch.from_numpy(pixels)
        .permute(0, 3, 1, 2)
        .float()
        .div(127.5)
        .sub(1)
        .contiguous(memory_format=torch.channels_last)
    )


def fresh_vae() -> AutoencoderKL:
    """An untrained autoencoder that adds little noise to its latents: with as much noise as a normal start adds, the
    decoder learns to look past the latents, and the encoder then learns nothing."""
    vae = AutoencoderKL(**SHAPE)  # type: ignore[arg-type]
    last = vae.encoder.conv_out
    with torch.no_grad():
        last.weight[16:].zero_()
        last.bias[16:].fill_(FIRST_LOG_VARIANCE)
    return vae.to(memory_format=torch.channels_last)


def loss_of(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """L1, squares (for PSNR) and differences of neighbors (for sharp edges), and a little KL; mean over all."""
    mean, log_variance = vae.encoder(images).chunk(2, 1)
    log_variance = log_variance.float().clamp(-30, 20)
    mean = mean.float()
    drawn = vae.decoder(mean + torch.exp(0.5 * log_variance) * noise).float()
    error = drawn - images
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error.abs().mean() + SQUARE_WEIGHT * error.square().mean() + EDGE_WEIGHT * edges + KL_WEIGHT * kl


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean over images of 10 log10(1 / mean squared error), pixels in 0 to 1, decoded from the mean latent."""
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        drawn = torch.cat([vae.decode(vae.encode(part).latent_dist.mode()).sample for part in images.split(16)])
    squares = ((drawn.clamp(-1, 1) - images) / 2).square().mean((1, 2, 3))
    return (-10 * squares.log10()).mean().item()


def batch_of(pixels: NDArray[np.uint8], plain: NDArray[Any], colored: NDArray[Any], *, size: int, draw: Any) -> Tensor:
    """Half icons as they are, half recolored, every second one mirrored and all moved by a few pixels."""
    chosen = np.concatenate([draw.choice(plain, size // 2), draw.choice(colored, size - size // 2)])
    images = to_tensor(pixels[np.sort(chosen)])
    mirrored = torch.from_numpy(draw.random(size) < 0.5)
    images[mirrored] = images[mirrored].flip(3)
    down, right = draw.integers(0, 7, 2)
    edge = images.shape[-1]
    return F.pad(images, (3, 3, 3, 3), value=1.0)[:, :, down : down + edge, right : right + edge].contiguous(
        memory_format=torch.channels_last
    )


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the factors by which (z - shift) * scaling has mean 0 and deviation 1, as SD3's configuration has them."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(16)])
    shift, scale = latents.mean().item(), 1 / latents.std().item()
    vae.register_to_config(shift_factor=round(shift, 4), scaling_factor=round(scale, 4))


def split_indices(images: list[IconImage]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows of the training icons as they are, of the recolored ones, and of the held-out icons as they are."""
    kinds = np.array([("icon" if p.split == "icon" else "train") + ("+" if p.color else "") for p in images])
    return np.flatnonzero(kinds == "train"), np.flatnonzero(kinds == "train+"), np.flatnonzero(kinds == "icon")


def train(data: Path, output: Path, *, minutes: float, batch: int, lr: float) -> None:
    """Train for so many minutes, pauses left out, and save the averaged weights in `output`/vae."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    output.mkdir(parents=True, exist_ok=True)
    described, stored = load(data)
    pixels = np.array(stored)
    plain, colored, held_out = split_indices(described)
    unseen = to_tensor(pixels[held_out])
    vae = fresh_vae()
    optimizers = optimizers_for([vae], lr=lr, kept_from_muon=("conv_in", "decoder.conv_out"))
    average = Average([vae], decay=0.998)
    state = output / "vae_state.pt"
    clock = Clock(minutes=minutes, seconds_done=load_state(state, models=[vae], optimizers=optimizers, average=average))
    draw = np.random.default_rng(average.updates)
    saved_at, shown = time.monotonic(), 0.0
    clock.last = time.monotonic()
    while clock.tick():
        yield_to_others()
        set_rate(optimizers, lr * clock.rate())
        images = batch_of(pixels, plain, colored, size=batch, draw=draw)
        edge = images.shape[-1] // 8
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(vae, images, torch.randn(batch, 16, edge, edge))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update()
        shown = loss.item() if shown == 0 else 0.9 * shown + 0.1 * loss.item()
        if not math.isfinite(shown):
            raise SystemExit("The loss is no number any more: start again with a smaller learning rate.")
        if average.updates % 50 == 0:
            print(f"step {average.updates} seconds {clock.seconds:.0f} loss {shown:.4f}", flush=True)
        if time.monotonic() - saved_at > 240:
            save_state(state, models=[vae], optimizers=optimizers, average=average, clock=clock)
            average.swap()
            print(f"step {average.updates} held-out PSNR {psnr(vae, unseen[:24]):.2f} dB", flush=True)
            average.swap()
            saved_at = time.monotonic()
    save_state(state, models=[vae], optimizers=optimizers, average=average, clock=clock)
    average.swap()
    measure_latents(vae, to_tensor(pixels[plain]))
    print(f"step {average.updates} held-out PSNR {psnr(vae, unseen):.2f} dB, all held-out icons")
    vae.save_pretrained(output / "vae")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()
    train(arguments.data, arguments.output, minutes=arguments.minutes, batch=arguments.batch, lr=arguments.lr)
