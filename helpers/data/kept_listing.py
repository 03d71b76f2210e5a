"""A place whose listing is kept, for whoever says that no file came or went and does not want to wait for a listing."""

import io
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from helpers.data.columns import BytesColumn, TextColumn
from helpers.storage.protocols import CacheStore, Listed, SourceStore

NAME = "listing-1.npz"


class CachedListing:
    """A SourceStore that is listed once; later its files are taken to be those of that time.

    metadata: where the listing is kept; `clear_listing` has the place listed again.
    """

    def __init__(self, source: SourceStore, *, metadata: CacheStore) -> None:
        self._source = source
        self._metadata = metadata
        self.read = source.read
        self.read_start = source.read_start
        self.describe = source.describe

    def list(self) -> Iterator[Listed]:
        """See `SourceStore`."""
        kept = self._kept()
        if kept is None:
            kept = list(self._source.list())
            self._keep(kept)
        yield from kept

    def _kept(self) -> Sequence[Listed] | None:
        try:
            with np.load(self._metadata.local_path(NAME), allow_pickle=False) as columns:
                paths, tags = (
                    TextColumn(BytesColumn(columns[name], columns[f"{name}_offsets"])) for name in ("paths", "tags")
                )
                rows = zip(paths, columns["sizes"].tolist(), tags, strict=True)
                return [Listed(path=path, size_bytes=size, tag=tag) for path, size, tag in rows]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _keep(self, listed: Sequence[Listed]) -> None:
        paths, tags = (TextColumn.of(column).encoded for column in ((f.path for f in listed), (f.tag for f in listed)))
        content = io.BytesIO()
        np.savez(
            content,
            paths=paths.block,
            paths_offsets=paths.offsets,
            sizes=np.array([file.size_bytes for file in listed], np.int64),
            tags=tags.block,
            tags_offsets=tags.offsets,
        )
        self._metadata.write(NAME, content.getvalue())


def clear_listing(metadata: CacheStore) -> None:
    """Have the place listed again when its listing is next kept."""
    if NAME in metadata.sizes():
        metadata.remove(NAME)
