"""What decoding and resizing costs beside a bare Pillow loop, on one core and on all: `python -m benchmarks.decode`."""

import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from helpers.data.geometry import CutRules, geometries
from helpers.data.images import START_BYTES, decode, read_size
from helpers.data.types import Box, Geometry, Size

PICTURES = 24


def photographs() -> list[bytes]:
    """JPEGs of 0.5 to 3 megapixels with smooth parts, edges and grain."""
    rng = np.random.default_rng(0)
    made = []
    for megapixels in np.linspace(0.5, 3.0, PICTURES):
        height = round((megapixels * 1e6 / 1.5) ** 0.5)
        coarse = rng.integers(0, 256, (height // 24, height // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((height * 3 // 2, height), Image.Resampling.BICUBIC)
        grain = rng.integers(-8, 9, (height, height * 3 // 2, 3))
        picture = Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=92)
        made.append(content.getvalue())
    return made


def bare(content: bytes, size: Size, geometry: Geometry) -> np.ndarray:
    """What anyone would write."""
    with Image.open(io.BytesIO(content)) as image:
        resized = image.convert("RGB").resize(geometry.resize, Image.Resampling.LANCZOS)
        return np.asarray(resized.crop(geometry.crop))


def seconds(work: Callable[[int], object], *, workers: int) -> float:
    """The shortest of three times for all pictures."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(PICTURES)))
        times.append(time.perf_counter() - started)
    return min(times)


def cuts(sizes: Sequence[Size], edge: int) -> list[Geometry]:
    """Squares of `edge` pixels."""
    rules = CutRules(
        resolution=edge,
        resolution_type="pixel",
        alignment=64,
        rounding=2,
        crop=True,
        crop_aspect="square",
        crop_style="center",
    )
    rows = geometries(np.array(sizes), rules=rules, draws=np.zeros((0, 3))).tolist()
    return [Geometry(resize=Size(*row[:2]), crop=Box(*row[2:])) for row in rows]


def main() -> None:
    contents = photographs()
    sizes = [read_size(content[:START_BYTES], path="a.jpg") for content in contents]
    header = seconds(lambda index: read_size(contents[index][:START_BYTES], path="a.jpg"), workers=1)
    print(f"header: {header / PICTURES * 1e6:.0f} microseconds a picture")
    cores = os.cpu_count() or 1
    print("edge  workers  bare ms  ours ms  ours / bare")
    for edge in (256, 512, 1024):
        made = cuts(sizes, edge)
        for workers in sorted({1, cores}):
            plain = seconds(lambda i, made=made: bare(contents[i], sizes[i], made[i]), workers=workers)
            ours = seconds(lambda i, made=made: decode(contents[i], size=sizes[i], geometry=made[i]), workers=workers)
            row = f"{plain / PICTURES * 1e3:7.1f}  {ours / PICTURES * 1e3:7.1f}  {ours / plain:11.2f}"
            print(f"{edge:4}  {workers:7}  {row}")


if __name__ == "__main__":
    main()
