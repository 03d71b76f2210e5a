"""Finds a dataset's files and opens each one that is not cached yet once, in threads."""

import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from helpers.data.catalog.known_files import UNKNOWN, FileMetadataCache, Keys, file_keys
from helpers.data.columns import BytesColumn, TextColumn
from helpers.data.rejections import UNREADABLE
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore, FileMissing, Listed, SourceStore

LISTED_AT_ONCE = 65_536
READ_AT_ONCE = 256
HEADERS = "headers-2"  # headers-1 knew no color profiles, and refused good PNGs
CAPTIONS = "captions-1"
HEADER = struct.Struct("<iiB")
SIZE_BYTES = 8

# Extensions that are never images; files with any other extension are opened.
# fmt: off
NOT_IMAGES = frozenset((
    ".txt", ".caption", ".json", ".jsonl", ".parquet", ".csv", ".tsv", ".md", ".rst", ".yaml", ".yml", ".toml",
    ".html", ".xml", ".log", ".ini", ".py", ".sh", ".ipynb", ".pdf", ".db", ".sqlite", ".zip", ".tar", ".gz", ".xz",
    ".zst", ".7z", ".rar", ".safetensors", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".arrow", ".mp4", ".mov", ".avi",
    ".mkv", ".webm", ".mp3", ".wav",
))
# fmt: on


@dataclass(frozen=True, kw_only=True)
class FileListing:
    """The files of a dataset: possible images as columns [N], ordered by path, and the others.

    keys: see `file_keys`; notes: text files by their path without extension; ignored: the number of other files, which
    are hidden or not images.
    """

    paths: TextColumn
    size_bytes: NDArray[np.int64]
    tags: TextColumn
    keys: Keys
    notes: dict[str, Listed]
    ignored: int


def split_ending(path: str) -> tuple[str, str]:
    """A path without its extension, and the extension in lower case with its dot; "" if there is none."""
    stem, dot, ending = path.rpartition(".")
    return (stem, f".{ending.lower()}") if dot and "/" not in ending else (path, "")


def find_files(source: SourceStore, *, want_notes: bool) -> FileListing:
    """List `source`; raises DataError if it cannot be listed. `notes` is empty unless wanted."""
    notes: dict[str, Listed] = {}
    listing, blocks, ignored = source.list(), [_columns(())], 0
    while few := list(islice(listing, LISTED_AT_ONCE)):
        images = []
        for listed in few:
            stem, ending = split_ending(listed.path)
            hidden = listed.path.startswith(".") or "/." in listed.path
            if not hidden and ending not in NOT_IMAGES:
                images.append(listed)
            elif want_notes and not hidden and ending == ".txt":
                notes[stem] = listed
        ignored += len(few) - len(images)
        blocks.append(_columns(images))
    paths, sizes, tags, keys = zip(*blocks, strict=True)
    return FileListing(
        paths=TextColumn.joined(paths),
        size_bytes=np.concatenate(sizes),
        tags=TextColumn.joined(tags),
        keys=np.concatenate(keys),
        notes=notes,
        ignored=ignored,
    )


def _columns(files: Sequence[Listed]) -> tuple[TextColumn, NDArray[np.int64], TextColumn, Keys]:
    """Paths, sizes, tags and keys of some files."""
    paths, sizes, tags = [f.path for f in files], [f.size_bytes for f in files], [f.tag for f in files]
    return TextColumn.of(paths), np.array(sizes, np.int64), TextColumn.of(tags), file_keys(paths, sizes, tags)


def header(size: tuple[int, int], *, profile: int = 0, reason: str = "") -> bytes:
    """The cache entry of a file: its upright size and `Profile`; 0 x 0 if it is not an image, with any reason."""
    return HEADER.pack(*size, profile) + reason.encode()


@dataclass(frozen=True, kw_only=True)
class FileReader:
    """Opens files of `found` in `workers` threads, and caches the results in `metadata`."""

    dataset_id: str
    found: FileListing
    source: SourceStore
    metadata: CacheStore
    workers: int
    reporter: Reporter

    def read_headers(self) -> tuple[NDArray[np.int32], NDArray[np.uint8], dict[int, str]]:
        """The upright sizes [N, 2] of all files found, 0 x 0 if not known; their color profiles [N]; and why some are
        rejected, by row.
        """
        known, values, rejected = self.read_missing(
            self.found.keys, read=self._read_header, table=HEADERS, what="read image sizes", unit="images"
        )
        sizes, profiles = np.zeros((len(self.found.paths), 2), np.int32), np.zeros(len(self.found.paths), np.uint8)
        bytes_of_sizes = values.block[values.offsets[:-1, None] + np.arange(HEADER.size)]
        sizes[known] = np.ascontiguousarray(bytes_of_sizes[:, :SIZE_BYTES]).view("<i4").reshape(-1, 2)
        profiles[known] = bytes_of_sizes[:, SIZE_BYTES]
        for position in np.flatnonzero(values.lengths > HEADER.size).tolist():
            rejected[int(known[position])] = values[position][HEADER.size :].decode()
            sizes[known[position]] = 0
        return sizes, profiles, rejected

    def known_rejections(self) -> dict[int, str]:
        """The rejections that earlier runs cached, by row; no file is opened."""
        cache = FileMetadataCache(self.metadata, name=HEADERS)
        rows = cache.find(self.found.keys)
        known = np.flatnonzero(rows != UNKNOWN)
        values = cache.values(rows[known])
        rejected = np.flatnonzero(values.lengths > HEADER.size).tolist()
        return {int(known[place]): values[place][HEADER.size :].decode() for place in rejected}

    def _read_header(self, row: int) -> bytes:
        from helpers.data.images.decode import START_BYTES, NotAImage, UnreadableImage, read_header

        path = self.found.paths[row]
        start = self.source.read_start(path, START_BYTES)
        whole = (lambda: self.source.read(path)) if len(start) == START_BYTES else None
        try:
            found = read_header(start, path=path, whole=whole)
            return header(found.size, profile=found.profile)
        except UnreadableImage as error:
            return header((0, 0), reason=error.reason)
        except NotAImage:
            return header((0, 0))

    def read_captions(self, rows: NDArray[np.int64]) -> tuple[dict[int, bytes], dict[int, str]]:
        """The content of the text file of each image at `rows` that has one, by row, and why others cannot be read."""
        stems = (split_ending(path)[0] for path in self.found.paths.take(rows))
        note_of_row = zip(rows.tolist(), map(self.found.notes.get, stems), strict=True)
        notes = {row: note for row, note in note_of_row if note is not None}
        listed = list(notes.values())
        keys = file_keys([n.path for n in listed], [n.size_bytes for n in listed], [n.tag for n in listed])
        known, values, failed = self.read_missing(
            keys,
            read=lambda position: self.source.read(listed[position].path),
            table=CAPTIONS,
            what="read captions",
            unit="captions",
        )
        rows_of_notes = list(notes)
        contents = {rows_of_notes[position]: value for position, value in zip(known.tolist(), values, strict=True)}
        return contents, {rows_of_notes[position]: reason for position, reason in failed.items()}

    def read_missing(
        self,
        keys: Keys,
        *,
        read: Callable[[int], bytes],
        table: str,
        what: str,
        unit: str,
        meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> tuple[NDArray[np.int64], BytesColumn, dict[int, str]]:
        """The cached values of the files `keys` [N], calling `read(position)` for each file that is not cached.

        meanwhile: a context manager to enter while files are read.
        Returns the positions that have a value, their values, and why the others could not be read: an OSError is not
        cached, since it may not occur next time.
        """
        cache = FileMetadataCache(self.metadata, name=table)
        rows = cache.find(keys)
        unknown = np.flatnonzero(rows == UNKNOWN)
        failed: dict[int, str] = {}

        def attempt(position: int) -> bytes | OSError:
            try:
                return read(position)
            except OSError as error:
                return error

        if len(unknown):
            name = f"{what} of {self.dataset_id}"
            with (
                stage(self.reporter, name, total=len(unknown), unit=unit) as advance,
                meanwhile(),
                ThreadPoolExecutor(self.workers) as pool,
            ):
                for first in range(0, len(unknown), READ_AT_ONCE):
                    positions = unknown[first : first + READ_AT_ONCE].tolist()
                    for position, result in zip(positions, pool.map(attempt, positions), strict=True):
                        if isinstance(result, FileMissing):
                            failed[position] = str(result)
                        elif isinstance(result, OSError):
                            failed[position] = f"{UNREADABLE} ({result.strerror or result})"
                        else:
                            cache.add(keys[position], result)
                    advance(len(positions))
            cache.flush()
            rows = cache.find(keys)
        known = np.flatnonzero(rows != UNKNOWN)
        return known, cache.values(rows[known]), failed
