"""Caches metadata of files, so that a known file is not opened again.

A table consists of complete part files that are added during a scan, so that a killed scan continues where it stopped.
They are numpy's `.npz`, which has checksums and needs no library that a fully cached run would not load anyway.
"""

import hashlib
import io
import logging
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from helpers.data.columns import BytesColumn, TextColumn, encode_name
from helpers.storage.protocols import CacheStore, Listed, SourceStore

logger = logging.getLogger(__name__)

MOST_PARTS = 16
SECONDS_PER_PART = 5.0
ROWS_PER_PART = 20_000
UNKNOWN = -1

Keys = NDArray[np.uint64]


def file_keys(paths: Iterable[str], sizes_bytes: Iterable[int], tags: Iterable[str]) -> Keys:
    """A key for the current version of each file [N, 2]: a hash of its path, size and tag."""
    digests = [
        hashlib.blake2b(b"%s\0%d\0%s" % (encode_name(path), size, tag.encode()), digest_size=16).digest()
        for path, size, tag in zip(paths, sizes_bytes, tags, strict=True)
    ]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class FileMetadataCache:
    """An append-only table of bytes by file key; if a key has two values, the longer one counts."""

    def __init__(self, store: CacheStore, *, name: str) -> None:
        """name: the prefix of the part files; change it when the meaning of the values changes."""
        self._store = store
        self._prefix = f"{name}-"
        self._keys: Keys = np.zeros((0, 2), np.uint64)
        self._values = BytesColumn.of(())
        self._fresh: list[tuple[Keys, bytes]] = []
        self._written_at = time.monotonic()
        self._loose: list[tuple[Keys, BytesColumn]] = []
        self._parts = self._read()

    def _read(self) -> list[str]:
        """Load every part and return their names. Another process may merge parts, so a part may disappear."""
        while True:
            names = [name for name in self._store.sizes() if name.startswith(self._prefix)]
            try:
                loaded = [part for name in names if (part := self._part(name))]
            except FileNotFoundError:
                continue
            self._join(loaded)
            return names

    def _part(self, name: str) -> tuple[Keys, BytesColumn] | None:
        try:
            with np.load(self._store.local_path(name)) as arrays:
                return arrays["keys"], BytesColumn(arrays["block"], arrays["offsets"])
        except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError):
            logger.warning("%s in %s is damaged; its files are scanned again", name, self._store.describe())
            self._store.remove(name)
            return None

    def _join(self, parts: Sequence[tuple[Keys, BytesColumn]]) -> None:
        """Build the table from `parts`, sorted by key, then by the length of the value."""
        if not parts:
            return
        keys = np.concatenate([keys for keys, _ in parts])
        values = BytesColumn.joined([values for _, values in parts])
        order = np.lexsort((values.lengths, keys[:, 1], keys[:, 0]))
        self._keys, self._values = np.ascontiguousarray(keys[order]), values.take(order)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The row of each key [N], UNKNOWN if it is not cached; rows are valid until the next `flush`."""
        if not len(self._keys):
            return np.full(len(keys), UNKNOWN, np.int64)
        rows = np.searchsorted(self._keys[:, 0], keys[:, 0], side="right") - 1
        return np.where((self._keys[rows] == keys).all(axis=1), rows, UNKNOWN)

    def values(self, rows: NDArray[np.int64]) -> BytesColumn:
        """The values at `rows`, which come from `find`."""
        return self._values.take(rows)

    def add(self, key: Keys, value: bytes) -> None:
        """Add `value` for one key [2]; it is written with the next part, after a few seconds at most."""
        self._fresh.append((key, value))
        if len(self._fresh) >= ROWS_PER_PART or time.monotonic() - self._written_at > SECONDS_PER_PART:
            self._write_fresh()

    def _write_fresh(self) -> None:
        keys = np.stack([key for key, _ in self._fresh])
        values = BytesColumn.of(value for _, value in self._fresh)
        self._parts.append(self._write(keys, values))
        self._loose.append((keys, values))
        self._fresh.clear()
        self._written_at = time.monotonic()

    def flush(self) -> None:
        """Write values that are not on disk yet, and merge the parts if there are many."""
        if self._fresh:
            self._write_fresh()
        if self._loose:
            self._join([(self._keys, self._values), *self._loose])
            self._loose.clear()
        if len(self._parts) > MOST_PARTS:
            merged = self._write(self._keys, self._values)
            for name in self._parts:
                self._store.remove(name)
            self._parts = [merged]

    def _write(self, keys: Keys, values: BytesColumn) -> str:
        name = f"{self._prefix}{uuid.uuid4().hex}.npz"
        content = io.BytesIO()
        np.savez(content, keys=keys, block=values.block, offsets=values.offsets)
        self._store.write(name, content.getvalue())
        return name


NAME = "listing-1.npz"


class CachedListing:
    """A SourceStore that is listed only once; later calls return the cached listing.

    metadata: where the listing is cached; `clear_listing` deletes it.
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
    """Delete the cached listing, so that the source is listed again."""
    if NAME in metadata.sizes():
        metadata.remove(NAME)
