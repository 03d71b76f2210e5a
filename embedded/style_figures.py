"""Measure how far the demo's LoRA has carried the model to its new style, and draw the README's grid.

`python -m embedded.style_figures config/demo/pipeline config/demo/style output/demo GRID.png`, once `bash train.sh`
has run the demo. The style is where a picture has its flat areas, shades and edges: `features`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from numpy.typing import NDArray
from PIL import Image

from embedded.data import to_hsv
from embedded.train_vae import to_tensor

# Between neighbouring pixels, of 1: flat, hardly shaded, shaded, drawn over, edge.
STEPS = (0.015, 0.04, 0.12, 0.3)
WHITE = 0.94
# As the demo trains and draws; see config/demo/config.env.
T5_LENGTH, GUIDANCE, SAMPLER_STEPS, SEEDS = 24, 4.0, 20, 4

Pictures = NDArray[np.uint8]


def features(pictures: Pictures) -> NDArray[np.float64]:
    """[N, 7] of [N, H, W, 3]: what share of the thing's pixels lies in each range of `STEPS`; its saturation and value.

    The thing is what is not white. Neither its shape nor its colour says much of these; how it is shaded does.
    """
    rgb = pictures.astype(np.float32) / 255
    thing = (rgb.min(-1) < WHITE)[:, :-1, :-1]
    down, right = np.abs(np.diff(rgb, axis=1)).max(-1)[:, :, :-1], np.abs(np.diff(rgb, axis=2)).max(-1)[:, :-1]
    ranges = np.digitize(np.maximum(down, right), STEPS)
    _, saturation, value = to_hsv(rgb[:, :-1, :-1])
    columns = [ranges == number for number in range(len(STEPS) + 1)] + [saturation, value]
    size = np.maximum(thing.sum((1, 2)), 1)
    return np.stack([(column * thing).sum((1, 2)) / size for column in columns], 1)


def share_covered(before: Pictures, after: Pictures, target: Pictures) -> float:
    """How much of the way from `before` to `target` `after` has gone: 0 none, 1 all of it; each [N, H, W, 3].

    The way is between the mean features, each in units of its own spread, and only steps along it count.
    """
    there, here, goal = features(before), features(after), features(target)
    spread = np.sqrt((there.var(0) + goal.var(0)) / 2)
    way, gone = (goal.mean(0) - there.mean(0)) / spread, (here.mean(0) - there.mean(0)) / spread
    return float(way @ gone / (way @ way))


def draw(pipeline: Any, captions: Sequence[str]) -> Pictures:
    """[len(captions), 64, 64, 3], from seeds that depend on the captions' places alone."""
    drawn = pipeline(
        list(captions),
        generator=[torch.Generator().manual_seed(place) for place in range(len(captions))],
        guidance_scale=GUIDANCE,
        num_inference_steps=SAMPLER_STEPS,
        max_sequence_length=T5_LENGTH,
        output_type="np",
    ).images
    return np.rint(drawn * 255).astype(np.uint8)


@torch.no_grad()
def through_vae(vae: Any, pictures: Pictures) -> Pictures:
    """The same as the model would draw them at best, for it draws what its VAE can show."""
    decoded = vae.decode(vae.encode(to_tensor(pictures)).latent_dist.mode()).sample
    return (decoded.permute(0, 2, 3, 1).clamp(-1, 1).add(1).mul(127.5)).round().byte().numpy()


def held_out(style: Path) -> tuple[list[str], Pictures]:
    """Captions and pictures of the new style that no training saw."""
    files = sorted((style / "held_out").iterdir())
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return [file.stem for file in files], np.stack(pictures)


def save_rows(file: Path, rows: Sequence[Pictures], *, times: int = 2) -> None:
    """Pictures [N, H, W, 3] of each row side by side, enlarged, with a white line between rows."""
    line = np.full((4, rows[0].shape[0] * rows[0].shape[2], 3), 255, np.uint8)
    stacked = np.concatenate([part for row in rows for part in (np.concatenate(list(row), 1), line)][:-1])
    picture = Image.fromarray(stacked)
    picture.resize((picture.width * times, picture.height * times), Image.Resampling.BICUBIC).save(file, optimize=True)


def measure(folder: Path, style: Path, run: Path, grid: Path) -> dict[str, str]:
    """All figures, by what they say; the grid: the base model's pictures above, the LoRA's below."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    captions, pictures = held_out(style)
    asked = captions * SEEDS
    before = draw(pipeline, asked)
    pipeline.load_lora_weights(run)
    after = draw(pipeline, asked)
    save_rows(grid, [before[: len(captions)], after[: len(captions)]])
    points = [json.loads(line) for line in (run / "logs" / "held_out.jsonl").read_text().splitlines()]
    return {
        "held-out loss on the new style, base model": f"{points[-1]['base_mean']:.4f}",
        "the same, demo LoRA": f"{points[-1]['mean']:.4f}",
        "share of the way to the new style": f"{share_covered(before, after, through_vae(pipeline.vae, pictures)):.2f}",
    }


if __name__ == "__main__":
    for name, figure in measure(*map(Path, sys.argv[1:5])).items():
        print(f"{name:<62} {figure:>12}")
