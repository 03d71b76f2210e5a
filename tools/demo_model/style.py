"""Render the images of another style that the demo fine-tunes to.

`python -m tools.demo_model.style NOTO_FOLDER FLUENT_FOLDER config/demo/style` takes the unpacked `@iconify-json/noto`
and `@iconify-json/fluent-emoji-flat`: objects in both sets, so that only the style is new. File names are captions.
"""

import json
import sys
from pathlib import Path

from PIL import Image

from tools.demo_model.data import COLOR_WORDS, HELD_OUT_ICONS, fraction_of, icons, on_white, render, view_px_of

COUNT, HELD_OUT_COUNT = 60, 12
CATEGORIES = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places")
LONGEST_NAME = 3


def make(noto: Path, fluent: Path, output: Path) -> None:
    """Write 60 images to `output`/images, and 12 that no training sees to `output`/held_out."""
    bodies = json.loads((fluent / "icons.json").read_text())["icons"]
    names = [
        name
        for name, category, _ in icons(noto)
        if category in CATEGORIES
        and name in bodies
        and fraction_of(f"icon {name}") >= HELD_OUT_ICONS
        and len(name.split("-")) <= LONGEST_NAME
        and not COLOR_WORDS & set(name.split("-"))
    ]
    chosen = sorted(names, key=lambda name: fraction_of(f"style {name}"))[: COUNT + HELD_OUT_COUNT]
    for place, name in enumerate(chosen):
        folder = output / ("images" if place < COUNT else "held_out")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = on_white(render(bodies[name]["body"], view_px=view_px_of(fluent)))
        Image.fromarray(pixels).save(folder / f"{name.replace('-', ' ')}.png", optimize=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
