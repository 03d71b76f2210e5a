"""How well faces are found, beside scikit-image's cascade where that is installed: `python -m benchmarks.faces`.

`python -m benchmarks.faces FACES.json FOLDER`: a table {"image.jpg": [x, y, edge], …} of where the one or the largest
face is, in pixels, with the images beside it; and a folder of images without faces.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from helpers.data.images.face_detector import detector_size, largest_face, single_threaded
from helpers.data.types import Size

REPOSITORY = Path(__file__).resolve().parents[1]
OUR_FACES = {str(REPOSITORY / "tests/unit/data/astronaut.jpg"): [169.0, 95.0, 80.0]}
FACELESS = REPOSITORY / "config/demo/style/images"
CASCADE_EDGE_PX = 512

Face = tuple[float, float]
Find = Callable[[Image.Image], Face | None]


def blazeface(image: Image.Image) -> Face | None:
    """The middle of the face, in pixels of `image`."""
    seen = detector_size(Size(*image.size))
    face = largest_face(np.asarray(image.resize(seen, Image.Resampling.LANCZOS)))
    if face is None:
        return None
    scale = max(image.size) / max(seen)
    return scale * (face.left + face.right) / 2, scale * (face.top + face.bottom) / 2


def cascade() -> Find | None:
    """The same with scikit-image's cascade; None where it is not installed."""
    try:
        from skimage.data import lbp_frontal_face_cascade_filename  # type: ignore[import-not-found]
        from skimage.feature import Cascade  # type: ignore[import-not-found]
    except ImportError:
        return None
    detector = Cascade(lbp_frontal_face_cascade_filename())

    def find(image: Image.Image) -> Face | None:
        scale = max(image.size) / CASCADE_EDGE_PX
        seen = image.resize([max(1, round(edge / scale)) for edge in image.size], Image.Resampling.LANCZOS)
        sizes: Any = {"min_size": (24, 24), "max_size": seen.size}
        found = detector.detect_multi_scale(img=np.asarray(seen), scale_factor=1.2, step_ratio=1, **sizes)
        if not found:
            return None
        face = max(found, key=lambda each: each["width"])
        return scale * (face["c"] + face["width"] / 2), scale * (face["r"] + face["height"] / 2)

    return find


def variants(image: Image.Image, face: tuple[float, float, float]) -> dict[str, tuple[Image.Image, Face, float]]:
    """The image in other ways, with the place of its face: x, y and edge."""
    x, y, edge = face
    wide, high = image.size
    made = {
        "as it is": (image, (x, y), edge),
        "left for right": (ImageOps.mirror(image), (wide - x, y), edge),
        "gray": (image.convert("L").convert("RGB"), (x, y), edge),
        "dark": (ImageEnhance.Brightness(image).enhance(0.3), (x, y), edge),
    }
    for degrees in (-30, -15, 15, 30):
        turned = image.rotate(degrees, Image.Resampling.BICUBIC, center=(x, y))
        made[f"turned by {degrees}"] = (turned, (x, y), edge)
    for part in (8, 16):  # the face's edge as a part of the canvas's
        canvas = round(part * edge)
        small = Image.new("RGB", (max(canvas, wide), max(canvas, high)), (90, 110, 130))
        small.paste(image, (0, 0))
        made[f"1/{part} of the edge"] = (small, (x, y), edge)
    return made


def main(faces: Mapping[str, list[float]], faceless: Path) -> None:
    finders: dict[str, Find | None] = {"BlazeFace": blazeface, "cascade": cascade()}
    nothing = [
        Image.open(path).convert("RGB") for path in sorted(faceless.iterdir()) if path.suffix in (".png", ".jpg")
    ]
    for name, find in finders.items():
        if find is None:
            print(f"{name}: not measured, scikit-image is not installed")
            continue
        found: dict[str, int] = {}
        wrong, looks, started = 0, 0, time.process_time()
        for path, (x, y, edge) in faces.items():
            for what, (image, middle, reach) in variants(Image.open(path).convert("RGB"), (x, y, edge)).items():
                face, looks = find(image), looks + 1
                hit = face is not None and np.hypot(face[0] - middle[0], face[1] - middle[1]) < reach / 2
                found[what] = found.get(what, 0) + hit
                wrong += face is not None and not hit
        false_alarms = sum(find(image) is not None for image in nothing)
        each_ms = 1000 * (time.process_time() - started) / (looks + len(nothing))
        print(f"{name}: {sum(found.values())} of {looks} found, {wrong} in the wrong place; {each_ms:.0f} ms each")
        print("  " + ", ".join(f"{what} {count}/{len(faces)}" for what, count in found.items()))
        print(f"  false alarms: {false_alarms} in {len(nothing)} images without faces")


if __name__ == "__main__":
    told, folder = OUR_FACES, FACELESS
    if len(sys.argv) == 3:
        table = Path(sys.argv[1])
        told = {os.path.join(table.parent, name): face for name, face in json.loads(table.read_text()).items()}
        folder = Path(sys.argv[2])
    with single_threaded():
        main(told, folder)
