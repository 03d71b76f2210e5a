"""Measure how far the demo's LoRA has moved the model to its new style, and save the README's grid.

`python -m tools.demo_model.style_figures config/demo/pipeline config/demo/style output/demo GRID.png`, after
`bash train.sh` has run the demo: of objects that it trained on, and of objects it did not see in the new style.
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

from tools.demo_model.measure import shrunk

# As the demo trains and draws; see config/demo/config.env.
T5_LENGTH, GUIDANCE, SAMPLER_STEPS, SEEDS = 24, 4.0, 20, 4
UNSEEN_IN_GRID, PLACE_PX = 4, 16

Images = NDArray[np.uint8]


def share_covered(before: Images, after: Images, target: Images) -> float:
    """How much of the way from `before` to `target` `after` has gone: 0 none, 1 all of it; each [N, H, W, 3].

    An image's place is its colors in squares of a sixteenth of its edge. Only steps towards its own target count.
    """
    there, here, goal = (shrunk(images, PLACE_PX) for images in (before, after, target))
    way = goal - there
    return float((way * (here - there)).sum() / (way * way).sum())


def draw(pipeline: Any, captions: Sequence[str]) -> Images:
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


def shown(folder: Path) -> tuple[list[str], Images]:
    """Captions of a folder's images, and the images."""
    files = sorted(folder.iterdir())
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return [file.stem for file in files], np.stack(images)


def save_rows(file: Path, rows: Sequence[Images], *, times: int = 2) -> None:
    """Images [N, H, W, 3] of each row side by side, enlarged, with a white line between rows."""
    line = np.full((4, rows[0].shape[0] * rows[0].shape[2], 3), 255, np.uint8)
    stacked = np.concatenate([part for row in rows for part in (np.concatenate(list(row), 1), line)][:-1])
    image = Image.fromarray(stacked)
    image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC).save(file, optimize=True)


def measure(folder: Path, style: Path, run: Path, grid: Path) -> dict[str, str]:
    """All figures, by what they say; the grid: the base model's images above, the LoRA's below."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    sets = {name: shown(style / name) for name in ("images", "held_out")}
    asked = {"images": sets["images"][0], "held_out": sets["held_out"][0] * SEEDS}
    before = {name: draw(pipeline, captions) for name, captions in asked.items()}
    pipeline.load_lora_weights(run)
    after = {name: draw(pipeline, captions) for name, captions in asked.items()}
    save_rows(
        grid, [np.concatenate([each["images"][::8], each["held_out"][-UNSEEN_IN_GRID:]]) for each in (before, after)]
    )
    points = [json.loads(line) for line in (run / "logs" / "held_out.jsonl").read_text().splitlines()]
    share = {
        name: share_covered(before[name], after[name], np.concatenate([images] * (len(asked[name]) // len(images))))
        for name, (_, images) in sets.items()
    }
    return {
        "validation loss on the new style, base model": f"{points[-1]['base_mean']:.4f}",
        "the same, demo LoRA": f"{points[-1]['mean']:.4f}",
        "share of the way to the new style, things trained on": f"{share['images']:.2f}",
        "the same, things that training saw no image of": f"{share['held_out']:.2f}",
    }


if __name__ == "__main__":
    for name, figure in measure(*map(Path, sys.argv[1:5])).items():
        print(f"{name:<62} {figure:>12}")
