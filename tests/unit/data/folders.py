"""A dataset's folder, and the opening of it as a run opens it."""

from collections import Counter
from pathlib import Path
from typing import Any

from helpers.config.datasets.types import LocalDataset
from helpers.data.catalog.build import open_catalog
from helpers.data.sources.image_table import ImageTable
from helpers.data.types import Catalog
from helpers.reporting.events import Event
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache, LocalSource
from tests.unit.data.images import encoded, photograph


class CountingSource(LocalSource):
    """A folder that counts how often each of its files is opened."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: Counter[str] = Counter()

    def read(self, path: str) -> bytes:
        self.opened[path] += 1
        return super().read(path)

    def read_start(self, path: str, length: int) -> bytes:
        self.opened[path] += 1
        return super().read_start(path, length)


class Listener:
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def handle(self, event: Event) -> None:
        self.heard.append(event)

    def close(self) -> None:
        pass


class Folder:
    """A dataset's folder, and the opening of it."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.images.mkdir()
        self.metadata = root / "cache"
        self.listener = Listener()
        self.opened: Counter[str] = Counter()

    def put(self, path: str, content: bytes | tuple[int, int] = (128, 96)) -> None:
        if isinstance(content, tuple):
            content = encoded(photograph(*content), "JPEG")
        (self.images / path).parent.mkdir(parents=True, exist_ok=True)
        (self.images / path).write_bytes(content)

    def open(
        self,
        *,
        seed: int = 0,
        workers: int = 2,
        longest_edge_px: int = 3072,
        filters: tuple[str, ...] = (),
        table: ImageTable | None = None,
        **settings: Any,
    ) -> Catalog:
        source = CountingSource(self.images)
        said = {"id": "pets", "instance_data_dir": self.images, "cache_dir_vae": self.metadata, "resolution": 0.01}
        try:
            return open_catalog(
                LocalDataset(**{**said, "aspect_bucket_alignment": 16, **settings}),
                source=source,
                metadata=LocalCache(self.metadata),
                seed=seed,
                workers=workers,
                reporter=Reporter([self.listener]),
                longest_edge_px=longest_edge_px,
                filters=filters,
                table=table,
            )
        finally:
            self.opened = source.opened


def same(one: Catalog, other: Catalog) -> bool:
    """Whether two catalogs agree in everything."""
    columns = ("size_bytes", "sizes", "geometries")
    return (
        [one.record(row) for row in range(len(one))] == [other.record(row) for row in range(len(other))]
        and all((getattr(one, name) == getattr(other, name)).all() for name in columns)
        and [(b.size, b.images.tolist()) for b in one.buckets] == [(b.size, b.images.tolist()) for b in other.buckets]
        and (one.rejected, one.ignored) == (other.rejected, other.ignored)
    )


def reasons(catalog: Catalog) -> dict[str, str]:
    """Why each image is left out, by path."""
    return {image.path: image.reason for image in catalog.rejected}
