"""Make the images and captions that the demo model trains on; they are too many for the repository.

`python -m tools.demo_model.data ICON_SET_FOLDER DATA_FOLDER` renders an unpacked `@iconify-json/noto` (with `resvg-py`)
into `images.npy` [N, 64, 64, 3] uint8 on white and `images.json`: name, color ("" for the original icon) and split.
The same input gives the same files: nothing is random, held-out images are chosen by a hash.
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGE_PX = 64
MARGIN_PX = 1
HELD_OUT_ICONS = 0.05
HELD_OUT_PAIRS = 0.10
# Degrees of hue of the colors by which the measure tells colors apart.
HUES = {"red": 0.0, "orange": 28.0, "yellow": 52.0, "green": 120.0, "blue": 220.0, "purple": 280.0, "pink": 330.0}
COLORS = (*HUES, "brown", "black", "gray")
COLOR_WORDS = {*COLORS, "white", "gray", "golden", "gold", "silver", "blond", "light", "dark", "rainbow"}
RECOLORED_CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Smileys & Emotion",
    "Travel & Places",
)
TEMPLATES = ("{}", "{}", "a {}", "A {}", "{} emoji", "a picture of a {}", "an icon of a {}", "{} on a white background")


@dataclass(frozen=True, kw_only=True)
class IconImage:
    """name: words of the icon's name. color: what it was recolored to, or "". split: train, icon, pair (held out)."""

    name: str
    color: str
    split: str

    @property
    def thing(self) -> str:
        """What a person would type to get this image."""
        return f"{self.color} {self.name}".strip()


def fraction_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, so that what is held out is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def captions_of(image: IconImage) -> tuple[str, ...]:
    """Every wording under which the image is shown; the bare name twice, for that is what people type."""
    return tuple(template.format(image.thing) for template in TEMPLATES)


def icons(folder: Path) -> Iterator[tuple[str, str, str]]:
    """(name, category, SVG body) of each icon that is not hidden and no skin tone of another, in the order of names."""
    content = json.loads((folder / "icons.json").read_text())
    categories = json.loads((folder / "metadata.json").read_text())["categories"]
    category_of = {name: category for category, names in categories.items() for name in names}
    for name, icon in sorted(content["icons"].items()):
        if icon.get("hidden") or name not in category_of or "skin-tone" in name:
            continue
        yield name, category_of[name], icon["body"]


def render(body: str, *, view_px: int, size_px: int = IMAGE_PX) -> NDArray[np.float32]:
    """[size, size, 4] in 0 to 1, straight alpha, of an SVG body whose own canvas is `view_px` wide and high."""
    import resvg_py
    from PIL import Image

    margin = view_px * MARGIN_PX / size_px
    box = f"{-margin} {-margin} {view_px + 2 * margin} {view_px + 2 * margin}"
    header = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'{header} width="{size_px}" height="{size_px}" viewBox="{box}">{body}</svg>'
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size_px, height=size_px))
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"), dtype=np.float32) / 255


def on_white(rgba: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[H, W, 3] of [H, W, 4] laid on white."""
    alpha = rgba[..., 3:]
    return np.rint((rgba[..., :3] * alpha + 1 - alpha) * 255).astype(np.uint8)


def to_hsv(rgb: NDArray[np.floating[Any]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Hue in degrees, saturation and value in 0 to 1, each [...], of [..., 3] in 0 to 1."""
    high, low = rgb.max(-1), rgb.min(-1)
    spread = np.maximum(high - low, 1e-6)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sector = np.where(
        high == red,
        (green - blue) / spread % 6,
        np.where(high == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    return sector * 60 % 360, (high - low) / np.maximum(high, 1e-6), high


def from_hsv(hue: NDArray[Any], saturation: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
    """[..., 3] in 0 to 1; the inverse of `to_hsv`."""
    turns = (hue[..., None] / 60 + np.array([5.0, 3.0, 1.0])) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(turns, 4 - turns), 0, 1))


def recolor(rgba: NDArray[np.float32], color: str) -> NDArray[np.float32]:
    """The icon in one color: light and dark stay, hues gather near the asked one, and a pale icon is tinted whole."""
    hue, saturation, value = to_hsv(rgba[..., :3])
    alpha = rgba[..., 3]
    vivid = (saturation > 0.25) & (value > 0.2)
    if color in ("black", "gray"):
        saturation, value = saturation * 0.1, 0.08 + 0.3 * value if color == "black" else 0.3 + 0.5 * value
    else:
        weight = alpha * vivid * saturation
        pale = (alpha * vivid).sum() < 0.3 * alpha.sum()
        turn = np.exp(1j * np.deg2rad(hue))
        main = np.angle((turn * weight).sum() + 1e-6)
        away = np.clip(0.25 * np.rad2deg(np.angle(turn * np.exp(-1j * main))), -12, 12)
        hue = (HUES.get(color, 20.0) + np.where(vivid, away, 0)) % 360
        if pale:
            saturation, value = np.maximum(saturation, 0.6), 0.3 + 0.7 * value
        if color == "brown":
            saturation, value = np.clip(saturation * 0.9, 0, 0.7), value * 0.55
        elif color == "pink":
            saturation, value = saturation * 0.55, 0.35 + 0.65 * value
        elif color in ("yellow", "orange"):
            value = 0.2 + 0.8 * value
    return np.concatenate([from_hsv(hue, saturation, value), rgba[..., 3:]], -1).astype(np.float32)


def images_of(name: str, category: str, rgba: NDArray[np.float32]) -> Iterator[tuple[IconImage, NDArray[np.uint8]]]:
    """The icon as it is and, where its kind allows, once in each color."""
    words = name.replace("-", " ")
    held_out = fraction_of(f"icon {name}") < HELD_OUT_ICONS
    yield IconImage(name=words, color="", split="icon" if held_out else "train"), on_white(rgba)
    if category not in RECOLORED_CATEGORIES or COLOR_WORDS & set(words.split()):
        return
    for color in COLORS:
        split = "pair" if fraction_of(f"pair {color} {name}") < HELD_OUT_PAIRS else "train"
        yield IconImage(name=words, color=color, split="icon" if held_out else split), on_white(recolor(rgba, color))


def make(icon_set: Path, data: Path) -> None:
    """Render everything and write it to the folder `data`."""
    made = [
        pair
        for name, category, body in icons(icon_set)
        for pair in images_of(name, category, render(body, view_px=view_px_of(icon_set)))
    ]
    data.mkdir(parents=True, exist_ok=True)
    np.save(data / "images.npy", np.stack([pixels for _, pixels in made]))
    (data / "images.json").write_text(json.dumps([asdict(image) for image, _ in made]))


def view_px_of(icon_set: Path) -> int:
    """Width of the canvas on which the set's icons are drawn."""
    return int(json.loads((icon_set / "icons.json").read_text())["width"])


def load(data: Path) -> tuple[list[IconImage], NDArray[np.uint8]]:
    """What `make` wrote: the images' descriptions and their pixels [N, 64, 64, 3], in the same order."""
    described = [IconImage(**entry) for entry in json.loads((data / "images.json").read_text())]
    return described, np.load(data / "images.npy", mmap_mode="r")


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
