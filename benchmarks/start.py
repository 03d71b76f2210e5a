"""How long a second start takes, from typing the command to the first optimizer step, with everything cached.

`python -m benchmarks.start [--images 64 100000]`, on the CPU. Each dataset is images of 64 x 64 pixels, each with a
caption of its own, whose caches are filled with random numbers in the real format; then `bash train.sh` is started and
its lines are timed. The first start reads the headers and is not counted. Aims: 9 s, and at most 3 s more with 100,000
images; the training stage of this 9 M-parameter model at most 1.0 GB resident.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from helpers.cache.keys import latent_keys, text_keys
from helpers.cache.writer import ShardWriter
from helpers.config.datasets.file import DatasetFile
from helpers.config.datasets.types import LocalDataset, TextEmbedsStore
from helpers.config.options.data import DataOptions
from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.data.types import Catalog
from helpers.models.family import ModelComponents
from helpers.models.registry import families
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache
from helpers.training.preparation.prepare import open_catalogs, workers_for

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
PRECISION = PrecisionOptions(mixed_precision="no")
SETTINGS = """
MODEL_TYPE=lora
MODEL_NAME={pipeline}
OUTPUT_DIR={output}
RESOLUTION=64
RESOLUTION_TYPE=pixel
MAX_NUM_STEPS=1
MIXED_PRECISION=no
RESUME_CHECKPOINT=none
"""


def write_run(folder: Path, *, pipeline: Path, images: int) -> LocalDataset:
    """A place to start from: the program by links, an env file, a dataset file and `images` images."""
    output = folder / "output"
    image_folder = output / "datasets"
    image_folder.mkdir(parents=True)
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(content, format="JPEG")
    for number in range(images):
        (image_folder / f"a red square, number {number}.jpg").write_bytes(content.getvalue())
    for name in ("train.py", "train.sh", "helpers", "install"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "config").mkdir()
    (folder / "config/config.env").write_text(SETTINGS.format(pipeline=pipeline, output=output))
    entry = {"id": "squares", "type": "local", "instance_data_dir": "datasets", "cache_dir_vae": "cache/vae"}
    (output / "multidatabackend.json").write_text(json.dumps([entry]))
    return LocalDataset(
        id="squares",
        instance_data_dir=image_folder,
        cache_dir_vae=output / "cache/vae",
        resolution=64,
        resolution_type="pixel",
    )


def fill(dataset: LocalDataset, *, parts: ModelComponents, text_cache: Path) -> None:
    """Random latents and embeddings under the keys that the run will ask for."""
    family = families()["sd3"]
    workers = workers_for(DataOptions(), ranks=SingleProcess(), reporter=Reporter())
    store = TextEmbedsStore(id="texts", cache_dir=text_cache)
    files = DatasetFile(images=(dataset,), text_embeds=store)
    (catalog,) = open_catalogs(files, parts=parts, seed=42, workers=workers)
    latent_part = family.latent_part(parts, PRECISION, CPU)
    latents = torch.randn(latent_part.channels, 64 // latent_part.downscale, 64 // latent_part.downscale).half()
    with ShardWriter(LocalCache(dataset.cache_dir_vae), rank=0, write_batch_size=128) as writer:
        for key in latent_keys(catalog, vae_identity=latent_part.identity).tolist():
            writer.add({key.decode(): {"latents": latents}})
    captions = ["", *captions_of(catalog)]
    for part in family.text_parts(parts, TextOptions(), PRECISION, CPU):
        outputs = {name: tensor[0] for name, tensor in part.load().encode([""]).items()}
        with ShardWriter(LocalCache(text_cache), rank=0, write_batch_size=128) as writer:
            for key in text_keys(captions, part_identity=part.identity).tolist():
                writer.add({key.decode(): outputs})


def captions_of(catalog: Catalog) -> list[str]:
    """Every image's caption."""
    return [catalog.captions_of(index)[0] for index in range(len(catalog))]


def start(folder: Path) -> tuple[float, float, str]:
    """Seconds to the first optimizer step and to the end, and what was printed."""
    began = time.monotonic()
    environment = {**os.environ, "VENV_PATH": sys.prefix}
    process = subprocess.Popen(
        ["bash", str(folder / "train.sh")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert process.stdout is not None
    first_step, printed = 0.0, []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("training: step 1 ") and not first_step:
            first_step = time.monotonic() - began
    status = process.wait()
    assert status == 0 and first_step, "".join(printed)
    return first_step, time.monotonic() - began, "".join(printed)


def main() -> None:
    """Print a line for each number of images."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, nargs="+", default=[64, 100_000])
    arguments.add_argument("--repeats", type=int, default=3)
    said = arguments.parse_args()
    seconds: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as place:
        pipeline = make_tiny_pipeline(Path(place) / "pipeline", size="bench")
        parts = families()["sd3"].locate(ModelOptions(pretrained_model_name_or_path=str(pipeline)))
        for images in said.images:
            folder = Path(place) / str(images)
            dataset = write_run(folder, pipeline=pipeline, images=images)
            fill(dataset, parts=parts, text_cache=folder / "output/cache/text")
            start(folder)
            rounds = [start(folder) for _ in range(said.repeats)]
            seconds[images] = min(first for first, _, _ in rounds)
            encoded = [line for line in rounds[0][2].splitlines() if line.startswith("encode")]
            assert not encoded, encoded
            peaks = re.findall(r"training: step 1 .*peak memory (\S+ \S+)", rounds[0][2])
            print(f"{images:>9,} images: first step after {seconds[images]:.1f} s; training's peak memory {peaks[-1]}")
    if len(seconds) > 1:
        few, many = min(seconds), max(seconds)
        print(f"{seconds[many] - seconds[few]:+.1f} s for {many:,} images in place of {few:,}")


if __name__ == "__main__":
    main()
