"""How long a dataset takes to open, cold, known and told by a table: `python -m benchmarks.catalog`.

Each line is a process of its own, so that its memory is its own. The listings of a million files and more are made up
by a store object; 100,000 real files are hard links to a few small JPEGs.
"""

import io
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers.config.datasets.types import LocalDataset, TableColumns
from helpers.data.catalog.build import open_catalog
from helpers.data.catalog.known_files import FileMetadataCache
from helpers.data.catalog.scan import HEADERS, find_files, header
from helpers.data.sources.image_table import ImageTable
from helpers.data.sources.table_files import read_table
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache, LocalSource
from helpers.storage.protocols import Listed, SourceStore

REAL, KNOWN, TOLD, ADDED = 100_000, 1_000_000, 2_000_000, 100
COLUMNS = TableColumns(
    filename_column="name",
    caption_column="caption",
    width_column="width",
    height_column="height",
    identifier_includes_extension=True,
)


class MadeUp:
    """A listing of `count` files, none of which may be opened."""

    def __init__(self, count: int) -> None:
        self._count = count

    def list(self) -> Iterator[Listed]:
        for number in range(self._count):
            yield Listed(f"{number // 10_000:04}/photograph-{number:08}.jpg", 500_000 + number, f"{number:019}")

    def read(self, path: str) -> bytes:
        raise AssertionError(f"{path} was opened")

    def read_start(self, path: str, length: int) -> bytes:
        raise AssertionError(f"{path} was opened")

    def describe(self) -> str:
        return "a made-up listing"


def sizes(count: int) -> np.ndarray:
    """Widths and heights of images as people have them [count, 2]."""
    shapes = np.array([(4000, 3000), (3000, 4000), (1920, 1080), (1024, 1024), (3000, 2000), (1600, 1200)], np.int32)
    return shapes[np.random.default_rng(0).integers(0, len(shapes), count)]


def open_and_plan(source: SourceStore, metadata: Path, *, table: ImageTable | None = None) -> int:
    """What a run does before it encodes: opens a dataset and draws the first epoch; the number of its images."""
    by_table = {"metadata_backend": "parquet", "caption_strategy": "parquet"} if table is not None else {}
    dataset = LocalDataset(id="large", instance_data_dir=metadata, cache_dir_vae=metadata, crop=False, **by_table)
    catalog = open_catalog(
        dataset,
        source=source,
        metadata=LocalCache(metadata),
        seed=0,
        workers=os.cpu_count() or 1,
        reporter=Reporter([]),
        longest_edge_px=3072,
        table=table,
    )
    order = SampleOrder(catalog.buckets, seed=0, batch_size=4, world_size=1)
    order.batch_at(Position(epoch=0, batch=order.batches_in_epoch(0) - 1))
    return len(catalog)


def know(folder: Path) -> None:
    """Remember the headers of the made-up files."""
    found = find_files(MadeUp(KNOWN), want_notes=False)
    remembered = FileMetadataCache(LocalCache(folder / "known"), name=HEADERS)
    for key, (width, height) in zip(found.keys, sizes(KNOWN).tolist(), strict=True):
        remembered.add(key, header((width, height)))
    remembered.flush()


def tell(folder: Path) -> None:
    """Write the table about the made-up files."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    widths, heights = sizes(TOLD).T
    columns = {
        "name": [listed.path for listed in MadeUp(TOLD).list()],
        "caption": [f"a photograph of a dog in the grass, number {number}" for number in range(TOLD)],
        "width": widths,
        "height": heights,
    }
    write_table(pa.table(columns), folder / "table.parquet")


def draw(folder: Path) -> None:
    """Write the small JPEGs, and link to them until there are enough files."""
    from PIL import Image

    (folder / "real").mkdir()
    for number in range(REAL + ADDED):
        path = folder / "real" / f"{number // 1000:03}" / f"photograph-{number:06}.jpg"
        if number % 1000 == 0:
            path.parent.mkdir()
            content = io.BytesIO()
            Image.fromarray(np.full((96 + number // 1000, 128, 3), number // 1000 % 256, np.uint8)).save(
                content, "JPEG"
            )
            path.write_bytes(content.getvalue())
        else:
            os.link(path.with_name(f"photograph-{number // 1000 * 1000:06}.jpg"), path)


class Counting(LocalSource):
    """A folder that counts how many of its files are opened."""

    opened = 0

    def read_start(self, path: str, length: int) -> bytes:
        self.opened += 1
        return super().read_start(path, length)


def real(folder: Path) -> str:
    source = Counting(folder / "real")
    started = time.perf_counter()
    count = open_and_plan(source, folder / "headers")
    rate = f", {source.opened / (time.perf_counter() - started):,.0f} a second" if source.opened > ADDED else ""
    return f"{count:,} images, {source.opened:,} opened{rate}"


def known(folder: Path) -> str:
    return f"{open_and_plan(MadeUp(KNOWN), folder / 'known'):,} images"


def told(folder: Path) -> str:
    table = read_table(folder / "table.parquet", columns=COLUMNS, name="table.parquet")
    return f"{open_and_plan(MadeUp(TOLD), folder / 'told', table=table):,} images"


def measured(stage: str, folder: Path, *, kill_when_there_are_parts: int | None = None) -> str:
    """Run one of the functions above in a process of its own; what it says of itself."""
    command = [sys.executable, "-m", "benchmarks.catalog", stage, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while kill_when_there_are_parts is not None and process.poll() is None:
        time.sleep(0.05)
        if len(list((folder / "headers").glob("headers-*"))) >= kill_when_there_are_parts:
            process.kill()
    return process.communicate()[0].strip() or "killed"


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for prepare in (draw, know, tell):
            measured(prepare.__name__, folder)
        added = folder / "added"
        added.mkdir()
        for path in sorted((folder / "real").rglob("*.jpg"))[REAL:]:
            path.rename(added / path.name)
        print(f"cold:               {measured('real', folder)}")
        shutil.rmtree(folder / "headers")
        print(f"cold, half-way:     {measured('real', folder, kill_when_there_are_parts=2)}")
        print(f"started again:      {measured('real', folder)}")
        print(f"known:              {measured('real', folder)}")
        added.rename(folder / "real" / "added")
        print(f"known, and some:    {measured('real', folder)}")
        print(f"known by the store: {measured('known', folder)}")
        print(f"told by a table:    {measured('told', folder)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        started, cpu = time.perf_counter(), time.process_time()
        said = globals()[sys.argv[1]](Path(sys.argv[2]))
        seconds, of_processor = time.perf_counter() - started, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{said or 'prepared'}, {seconds:.1f} s ({of_processor:.1f} s of processor), {peak:.2f} GiB")
    else:
        main()
