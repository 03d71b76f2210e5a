"""Train the demo pipeline's text encoders and transformer together: frozen random encoders condition worse.

`python -m tools.demo_model.train_transformer DATA_FOLDER PIPELINE_FOLDER OUTPUT_FOLDER --minutes 45` needs the
tokenizers and the VAE in PIPELINE_FOLDER; the same command resumes a stopped training.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from tools.demo_model.common import Average, Clock, load_state, optimizers_for, save_state, set_rate, yield_to_others
from tools.demo_model.data import IconImage, captions_of, load
from tools.demo_model.parts import SHIFT, Parts, fresh_parts
from tools.demo_model.train_vae import to_tensor

# The pipeline's default call reads 256 tokens, most of them padding, which is dear: most batches see fewer.
T5_LENGTHS, T5_SHARES, LAST_T5_SHARES = (12, 24, 64, 256), (0.72, 0.2, 0.05, 0.03), (0.45, 0.2, 0.1, 0.25)
LAST_PART = 0.85
EMPTY_CAPTIONS, PLAIN_SHARE = 0.1, 0.6
KEPT_FROM_MUON = ("embed", "shared", "proj_out", "relative_attention_bias")


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """The training images' latents [N, 16, 8, 8], as the transformer sees them, and the rows of either kind."""

    images: list[IconImage]
    latents: Tensor
    plain: Any
    colored: Any


@torch.no_grad()
def encoded(vae: AutoencoderKL, pixels: Any) -> Tensor:
    """(z - shift) * scaling of all images, from the means, in 32 bits."""
    parts = []
    for start in range(0, len(pixels), 64):
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(to_tensor(np.array(pixels[start : start + 64]))).latent_dist.mode().float()
        parts.append((mean - vae.config["shift_factor"]) * vae.config["scaling_factor"])
    return torch.cat(parts).contiguous()


def lessons_of(data: Path, vae_folder: Path, *, cache: Path) -> Lessons:
    """Encode the training images, or take the latents encoded by an earlier start."""
    described, pixels = load(data)
    rows = [i for i, image in enumerate(described) if image.split == "train"]
    images = [described[i] for i in rows]
    if cache.exists():
        latents = torch.load(cache, weights_only=True)
    else:
        vae = AutoencoderKL.from_pretrained(vae_folder).to(memory_format=torch.channels_last)
        latents = encoded(vae, pixels[rows])
        torch.save(latents, cache)
    colored = np.array([bool(image.color) for image in images])
    return Lessons(images=images, latents=latents, plain=np.flatnonzero(~colored), colored=np.flatnonzero(colored))


def batch_of(lessons: Lessons, *, size: int, draw: Any) -> tuple[Tensor, list[str]]:
    """Latents [B, 16, 8, 8] and one wording of each caption, a tenth of them empty for guidance."""
    plain = round(size * PLAIN_SHARE)
    rows = np.concatenate([draw.choice(lessons.plain, plain), draw.choice(lessons.colored, size - plain)])
    captions = [str(draw.choice(captions_of(lessons.images[row]))) for row in rows]
    kept = draw.random(size) >= EMPTY_CAPTIONS
    return lessons.latents[rows], [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]


def loss_of(parts: Parts, latents: Tensor, captions: list[str], *, t5_length: int) -> Tensor:
    """Mean squared error of the velocity, sigma logit-normal and shifted (Esser et al. 2024, eq. 13 to 15)."""
    sigmas = torch.sigmoid(torch.randn(len(latents)))
    sigmas = SHIFT * sigmas / (1 + (SHIFT - 1) * sigmas)
    noise = torch.randn_like(latents)
    share = sigmas.view(-1, 1, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings, pooled = parts.embed(captions, t5_length=t5_length)
        predicted = parts.transformer(
            hidden_states=(1 - share) * latents + share * noise,
            timestep=1000 * sigmas,
            encoder_hidden_states=embeddings,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
    return (predicted.float() - (noise - latents)).square().mean()


def save_parts(parts: Parts, pipeline: Path) -> None:
    """Write the models, in 16 bits, to their places in a pipeline's folder; the live ones stay as they are."""
    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "transformer")
    for name, model in zip(names, parts.models, strict=True):
        kept = {key: value.clone() for key, value in model.state_dict().items()}
        model.half().save_pretrained(pipeline / name)  # type: ignore[operator]
        model.float().load_state_dict(kept)
        # transformers would compute in the stored precision where the configuration names it, and diffusers would not.
        configuration = json.loads((pipeline / name / "config.json").read_text())
        if "dtype" in configuration:
            configuration["dtype"] = "float32"
            (pipeline / name / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")


def train(data: Path, pipeline: Path, output: Path, *, minutes: float, batch: int, lr: float) -> None:
    """Train for so many minutes, pauses left out, and save the averaged weights into the pipeline's folder."""
    torch.set_num_threads(2)
    output.mkdir(parents=True, exist_ok=True)
    lessons = lessons_of(data, pipeline / "vae", cache=output / "latents.pt")
    torch.manual_seed(0)
    parts = fresh_parts(pipeline)
    optimizers = optimizers_for(parts.models, lr=lr, kept_from_muon=KEPT_FROM_MUON)
    average = Average(parts.models, decay=0.998)
    state = output / "transformer_state.pt"
    held: dict[str, Any] = {"models": parts.models, "optimizers": optimizers, "average": average}
    clock = Clock(minutes=minutes, seconds_done=load_state(state, **held))
    draw = np.random.default_rng(average.updates)
    torch.manual_seed(average.updates)
    saved_at, shown = time.monotonic(), 0.0
    while clock.tick():
        yield_to_others()
        set_rate(optimizers, lr * clock.rate())
        latents, captions = batch_of(lessons, size=batch, draw=draw)
        t5_length = int(draw.choice(T5_LENGTHS, p=T5_SHARES if clock.progress < LAST_PART else LAST_T5_SHARES))
        loss = loss_of(parts, latents, captions, t5_length=t5_length)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for model in parts.models for p in model.parameters()], 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update()
        shown = loss.item() if shown == 0 else 0.95 * shown + 0.05 * loss.item()
        if not math.isfinite(shown):
            raise SystemExit("The loss is no number any more: start again with a smaller learning rate.")
        if average.updates % 50 == 0:
            print(f"step {average.updates} seconds {clock.seconds:.0f} loss {shown:.4f}", flush=True)
        if time.monotonic() - saved_at > 180:
            save_state(state, clock=clock, **held)
            saved_at = time.monotonic()
    save_state(state, clock=clock, **held)
    average.swap()
    save_parts(parts, pipeline)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    train(options.data, options.pipeline, options.output, minutes=options.minutes, batch=options.batch, lr=options.lr)
