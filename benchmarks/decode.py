"""What decoding and resizing costs beside a bare Pillow loop, on one core and on all: `python -m benchmarks.decode`.

With `pip install simplejpeg pyvips pyvips-binary` it shows those too, and how far their pixels are from the bare loop.
"""

import importlib.util
import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from helpers.data.images.decode import START_BYTES, decode, read_size
from helpers.data.images.geometry import CropRules, geometries
from helpers.data.types import Box, Geometry, Size

IMAGES = 24

Decoder = Callable[[bytes, Size, Geometry], np.ndarray]


def photographs() -> list[bytes]:
    """JPEGs of 0.5 to 3 megapixels with smooth parts, edges and grain."""
    rng = np.random.default_rng(0)
    made = []
    for megapixels in np.linspace(0.5, 3.0, IMAGES):
        height = round((megapixels * 1e6 / 1.5) ** 0.5)
        coarse = rng.integers(0, 256, (height // 24, height // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((height * 3 // 2, height), Image.Resampling.BICUBIC)
        grain = rng.integers(-8, 9, (height, height * 3 // 2, 3))
        image = Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=92)
        made.append(content.getvalue())
    return made


def bare(content: bytes, size: Size, geometry: Geometry) -> np.ndarray:
    """What anyone would write."""
    with Image.open(io.BytesIO(content)) as image:
        resized = image.convert("RGB").resize(geometry.resize, Image.Resampling.LANCZOS)
        return np.asarray(resized.crop(geometry.crop))


def turbo(content: bytes, size: Size, geometry: Geometry) -> np.ndarray:
    """libjpeg-turbo's own bindings, scaled as ours decodes: to at least twice the pixels that the resize needs."""
    import simplejpeg  # type: ignore[import-not-found]

    need = geometry.resize
    pixels = simplejpeg.decode_jpeg(content, min_height=2 * need.height, min_width=2 * need.width, min_factor=1)
    across, down = pixels.shape[1] / need.width, pixels.shape[0] / need.height
    crop = geometry.crop
    box = (crop.left * across, crop.top * down, crop.right * across, crop.bottom * down)
    return np.asarray(Image.fromarray(pixels).resize(geometry.target, Image.Resampling.LANCZOS, box=box))


def vips(content: bytes, size: Size, geometry: Geometry) -> np.ndarray:
    """libvips's thumbnail, which shrinks while it loads as far as it sees fit."""
    import pyvips  # type: ignore[import-not-found]

    whole = pyvips.Image.thumbnail_buffer(content, geometry.resize.width, height=geometry.resize.height, size="force")
    crop = geometry.crop
    return whole.crop(crop.left, crop.top, *crop.size).numpy()


def ours(content: bytes, size: Size, geometry: Geometry) -> np.ndarray:
    return decode(content, size=size, geometry=geometry)


def rivals() -> list[Decoder]:
    """Those that are installed."""
    found = {"simplejpeg": turbo, "pyvips": vips}
    return [decoder for name, decoder in found.items() if importlib.util.find_spec(name)]


def farthest(decoder: Decoder, contents: Sequence[bytes], sizes: Sequence[Size], made: Sequence[Geometry]) -> float:
    """The root mean square difference to the bare loop's pixels, of 255, of the image where it is largest."""
    errors = []
    for content, size, geometry in zip(contents, sizes, made, strict=True):
        difference = decoder(content, size, geometry).astype(float) - bare(content, size, geometry)
        errors.append(float(np.sqrt((difference**2).mean())))
    return max(errors)


def seconds(work: Callable[[int], object], *, workers: int) -> float:
    """The shortest of three times for all images."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(IMAGES)))
        times.append(time.perf_counter() - started)
    return min(times)


def cuts(sizes: Sequence[Size], edge: int) -> list[Geometry]:
    """Squares of `edge` pixels."""
    rules = CropRules(
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
    print(f"header: {header / IMAGES * 1e6:.0f} microseconds an image")
    cores = os.cpu_count() or 1
    print("edge  decoder  farthest  ms on one core  ms on all  one core / bare")
    for edge in (256, 512, 1024):
        made = cuts(sizes, edge)
        base = 0.0
        for decoder in (bare, ours, *rivals()):

            def work(i: int, decoder: Decoder = decoder, made: list[Geometry] = made) -> object:
                return decoder(contents[i], sizes[i], made[i])

            one, every = (seconds(work, workers=workers) / IMAGES * 1e3 for workers in (1, cores))
            base = base or one
            row = f"{farthest(decoder, contents, sizes, made):8.2f}  {one:14.1f}  {every:9.1f}  {one / base:15.2f}"
            print(f"{edge:4}  {decoder.__name__:7}  {row}")


if __name__ == "__main__":
    main()
