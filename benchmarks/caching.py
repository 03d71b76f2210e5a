"""How close latent caching comes to keeping every core busy, and how far ahead of the simple way it is.

`python -m benchmarks.caching [--images 256] [--repeats 3]`, on the CPU. Every ratio is of one run: the best of
`repeats` rounds of each contestant, which take turns. Importing libraries and loading the VAE is left out for all.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from helpers.cache.latents import LatentCache, fill_latent_cache
from helpers.config.options.model import ModelOptions, PrecisionOptions
from helpers.data.images.decode import decode
from helpers.data.images.geometry import CropRules, geometries
from helpers.data.types import Catalog, Size
from helpers.models.family import LatentEncoder, VaeSpec
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.vae import latent_part
from helpers.models.sd3.weights.components import locate
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache, LocalSource

EDGE_PX = 256
VAE_WIDTHS = (32, 64, 96, 96)
RULES = CropRules(
    resolution=EDGE_PX,
    resolution_type="pixel",
    alignment=64,
    rounding=2,
    crop=False,
    crop_aspect="square",
    crop_style="center",
    aspect_buckets=(),
)


def photographs(folder: Path, *, count: int) -> Catalog:
    """JPEG files of 0.5 to 3 megapixels in four shapes, as detailed as photographs: noise that falls with frequency."""
    random = np.random.default_rng(0)
    shapes = (4 / 3, 3 / 4, 3 / 2, 1.0)
    canvas = _noise(random, edge=2400)
    for number in range(count):
        area = random.uniform(0.5e6, 3e6)
        width, height = (int((area * shapes[number % 4]) ** 0.5), int((area / shapes[number % 4]) ** 0.5))
        left, top = random.integers(0, 2400 - width), random.integers(0, 2400 - height)
        image = Image.fromarray(canvas[top : top + height, left : left + width])
        image.save(folder / f"{number:04}.jpg", quality=90)
    return catalog_of(folder)


def _noise(random: np.random.Generator, *, edge: int) -> np.ndarray:
    frequency = np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)[None]) + 1 / edge
    planes = [np.fft.irfft2(np.fft.rfft2(random.standard_normal((edge, edge))) / frequency**1.2) for _ in range(3)]
    image = np.stack(planes, axis=-1)
    return np.clip(128 + 50 * image / image.std(), 0, 255).astype(np.uint8)


def catalog_of(folder: Path) -> Catalog:
    source = LocalSource(folder)
    listed = list(source.list())
    sizes = np.array([Image.open(folder / one.path).size for one in listed], dtype=np.int32)
    return Catalog(
        dataset_id="photographs",
        source=source,
        repeats=0,
        paths=[one.path for one in listed],
        tags=[one.tag for one in listed],
        size_bytes=np.array([one.size_bytes for one in listed], dtype=np.int64),
        sizes=sizes,
        geometries=geometries(sizes, rules=RULES, draws=np.empty((0, 3))),
        captions_of=lambda index: (listed[index].path,),
    )


def vae_part(folder: Path) -> VaeSpec:
    """An f8 VAE of 16 channels, as SD3's but narrower, loaded already."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    torch.manual_seed(0)
    model: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=VAE_WIDTHS,
        layers_per_block=1,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    model.save_pretrained(folder)
    pipeline = make_tiny_pipeline(folder.parent / "pipeline")
    options = ModelOptions(pretrained_model_name_or_path=str(pipeline), pretrained_vae_model_name_or_path=str(folder))
    part = latent_part(locate(options), PrecisionOptions(mixed_precision="no"), torch.device("cpu"))
    encoder = part.load()
    return replace(part, load=lambda: encoder)


def ours(catalog: Catalog, part: VaeSpec, folder: Path) -> None:
    rejected = fill_latent_cache(
        catalog,
        part=part,
        store=LocalCache(folder),
        vae_batch_size=4,
        write_batch_size=128,
        workers=torch.get_num_threads(),
        ranks=SingleProcess(),
        reporter=Reporter(),
    )
    assert not rejected


def bare(catalog: Catalog, encoder: LatentEncoder) -> None:
    """Decode, resize and encode on one core, and keep nothing."""
    for index in range(len(catalog)):
        width, height = catalog.sizes[index].tolist()
        content = catalog.source.read(catalog.paths[index])
        pixels = decode(content, size=Size(width, height), geometry=catalog.geometry(index))
        encoder.encode(torch.tensor(pixels)[None])


def simple(catalog: Catalog, encoder: LatentEncoder, folder: Path) -> None:
    """Decode once for the size and once for the pixels, encode one by one, save a file each."""
    folder.mkdir()
    for index in range(len(catalog)):
        content = catalog.source.read(catalog.paths[index])
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert image.size == tuple(catalog.sizes[index].tolist())
        with Image.open(io.BytesIO(content)) as image:
            geometry = catalog.geometry(index)
            cropped = image.convert("RGB").resize(geometry.resize, Image.Resampling.LANCZOS).crop(geometry.crop)
        latents = encoder.encode(torch.tensor(np.asarray(cropped))[None])
        torch.save(latents[0], folder / f"{index}.pt")


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    cores = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        (root / "photographs").mkdir()
        catalog = photographs(root / "photographs", count=arguments.images)
        part = vae_part(root / "vae")
        encoder = part.load()
        bare(replace_rows(catalog, 8), encoder)  # what only the first call costs
        rounds: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": [], "simple": []}
        for number in range(arguments.repeats):
            rounds["ours"].append(timed(lambda number=number: ours(catalog, part, root / f"ours-{number}")))
            torch.set_num_threads(1)
            rounds["bare"].append(timed(lambda: bare(catalog, encoder)))
            torch.set_num_threads(cores)
            rounds["simple"].append(timed(lambda number=number: simple(catalog, encoder, root / f"simple-{number}")))
        check_opens(root / "ours-0", catalog=catalog, part=part)
    report(rounds, images=arguments.images, cores=cores)


def replace_rows(catalog: Catalog, count: int) -> Catalog:
    """The catalog's first images."""
    columns = ("paths", "tags", "size_bytes", "sizes", "geometries")
    return replace(catalog, **{name: getattr(catalog, name)[:count] for name in columns})


def check_opens(folder: Path, *, catalog: Catalog, part: VaeSpec) -> None:
    cache = LatentCache(LocalCache(folder), catalog=catalog, part=part)
    assert all(cache.latents(index).isfinite().all() for index in range(len(catalog)))


def report(rounds: dict[str, list[tuple[float, float]]], *, images: int, cores: int) -> None:
    best = {name: min(times) for name, times in rounds.items()}
    print(f"{images} photographs of 0.5 to 3 megapixels to {EDGE_PX} px, VAE {VAE_WIDTHS}, {cores} cores")
    print(f"{'':8}{'wall s':>9}{'cpu s':>9}{'images/s':>10}")
    for name, (wall, processor) in best.items():
        print(f"{name:8}{wall:9.2f}{processor:9.2f}{images / wall:10.1f}")
    bare_processor = min(processor for _, processor in rounds["bare"])
    wall, processor = best["ours"]
    print(f"wall over bare processor seconds / cores: {wall / (bare_processor / cores):.2f} (aim: at most 1.15)")
    busy = processor / wall / cores
    print(f"processor seconds over bare: {processor / bare_processor:.2f}; cores kept busy: {busy:.0%}")
    print(f"throughput over the simple way: {best['simple'][0] / wall:.2f} (aim: at least 1.5)")


if __name__ == "__main__":
    main()
