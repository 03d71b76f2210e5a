"""Measure what the demo pipeline can do, and save grids of its images to look at.

`python -m tools.demo_model.measure DATA_FOLDER PIPELINE_FOLDER GRID_FOLDER` prints a table (with `--quick` a fifth of
it). Images come from the pipeline's default call: its own size, 28 steps, guidance 7, 256 tokens of T5.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from numpy.typing import NDArray
from PIL import Image

from tools.demo_model.data import HUES, IconImage, fraction_of, load, to_hsv
from tools.demo_model.train_vae import psnr, split_indices, to_tensor

TRAINING_CAPTIONS, UNSEEN_CAPTIONS, BATCH = 100, 40, 20
# A part of the image counts as the thing where it has this much color, and is in the asked color where no other
# color's hue is nearer; the caption is met when this share of the thing is.
LEAST_SATURATION, LEAST_SHARE = 0.25, 0.5


def draw(pipeline: Any, captions: Sequence[str], **how: Any) -> NDArray[np.uint8]:
    """[N, 64, 64, 3] of the captions, the same for the same list."""
    drawn = []
    for start in range(0, len(captions), BATCH):
        part = list(captions[start : start + BATCH])
        generators = [torch.Generator().manual_seed(start + i) for i in range(len(part))]
        drawn.append(pipeline(part, generator=generators, output_type="np", **how).images)
    return np.rint(np.concatenate(drawn) * 255).astype(np.uint8)


def shrunk(images: NDArray[np.uint8], size_px: int) -> NDArray[np.float32]:
    """[N, size * size * 3], each pixel the mean of a square."""
    count, edge = images.shape[:2]
    step = edge // size_px
    squares = images.reshape(count, size_px, step, size_px, step, 3).astype(np.float32)
    return squares.mean((2, 4)).reshape(count, -1)


def nearest(drawn: NDArray[np.uint8], icons: NDArray[np.uint8], *, size_px: int) -> NDArray[Any]:
    """For each drawn image the row of the icon at the least Euclidean distance, both shrunk to `size_px`."""
    left, right = shrunk(drawn, size_px), shrunk(icons, size_px)
    return ((right**2).sum(1)[None] - 2 * left @ right.T).argmin(1)


def share_in_color(image: NDArray[np.uint8], color: str) -> float:
    """Share of the colored part whose hue is nearest to the asked one; 0 where less than 2 % is colored."""
    hue, saturation, value = to_hsv(image.astype(np.float32) / 255)
    colored = (saturation > LEAST_SATURATION) & (value > 0.15)
    if colored.mean() < 0.02:
        return 0.0
    away = np.abs((hue[colored][:, None] - np.array(list(HUES.values())) + 180) % 360 - 180)
    return float((away.argmin(1) == list(HUES).index(color)).mean())


def chosen(images: Sequence[IconImage], rows: Sequence[int], count: int, *, salt: str) -> list[int]:
    """`count` of the rows, drawn by hash."""
    return sorted(sorted(rows, key=lambda row: fraction_of(f"{salt} {images[row].thing}"))[:count])


def save_grid(file: Path, pairs: Sequence[NDArray[np.uint8]], *, columns: int) -> None:
    """An image of all [H, W, 3], row by row."""
    blank = np.full_like(pairs[0], 255)
    cells = [*pairs, *[blank] * (-len(pairs) % columns)]
    rows = [np.concatenate(cells[start : start + columns], 1) for start in range(0, len(cells), columns)]
    Image.fromarray(np.concatenate(rows)).save(file)


def measure_training(pipeline: Any, images: list[IconImage], pixels: Any, grids: Path, *, count: int) -> dict[str, str]:
    """How many training captions give an image nearer to their own icon than to any other; grid: own icon, drawn."""
    plain = [row for row, image in enumerate(images) if not image.color]
    asked = chosen(images, [row for row in plain if images[row].split == "train"], count, salt="measure")
    drawn = draw(pipeline, [images[row].thing for row in asked])
    wanted = np.array([plain.index(row) for row in asked])
    icons = pixels[plain]
    save_grid(
        grids / "training.png",
        [cell for row, image in zip(asked, drawn, strict=True) for cell in (pixels[row], image)],
        columns=20,
    )
    return {
        f"training captions nearest to their own icon, {size} x {size}": (
            f"{int((nearest(drawn, icons, size_px=size) == wanted).sum())} of {count}"
        )
        for size in (16, 32)
    }


def measure_unseen(pipeline: Any, images: list[IconImage], grids: Path, *, count: int) -> dict[str, str]:
    """How many unseen pairs of color and thing come in the asked hue over most of the thing."""
    pairs = [row for row, image in enumerate(images) if image.split == "pair" and image.color in HUES]
    asked = chosen(images, pairs, count, salt="unseen")
    drawn = draw(pipeline, [f"a {images[row].thing}" for row in asked])
    save_grid(grids / "unseen.png", list(drawn), columns=10)
    (grids / "unseen.txt").write_text("\n".join(images[row].thing for row in asked) + "\n")
    met = [share_in_color(image, images[row].color) >= LEAST_SHARE for row, image in zip(asked, drawn, strict=True)]
    return {"unseen color + thing captions in the asked hue": f"{sum(met)} of {count}"}


def measure(data: Path, folder: Path, grids: Path, *, quick: bool) -> dict[str, str]:
    """All figures, by what they say."""
    torch.set_num_threads(2)
    grids.mkdir(parents=True, exist_ok=True)
    images, stored = load(data)
    pixels = np.array(stored)
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    unseen = to_tensor(pixels[split_indices(images)[2]])
    share = 5 if quick else 1
    return {
        "VAE PSNR on held-out icons": f"{psnr(pipeline.vae, unseen):.2f} dB",
        **measure_training(pipeline, images, pixels, grids, count=TRAINING_CAPTIONS // share),
        **measure_unseen(pipeline, images, grids, count=UNSEEN_CAPTIONS // share),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("grids", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    for name, figure in measure(options.data, options.pipeline, options.grids, quick=options.quick).items():
        print(f"{name:<62} {figure:>12}")
