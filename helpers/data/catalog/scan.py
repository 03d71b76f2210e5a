"""Finds a dataset's files and opens the ones not known yet, in threads, once each."""

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

# Endings under which nobody keeps images; files with others are looked into.
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
    """The files of a dataset: those that may be images by column [N], in the order of their paths, and the others.

    keys: see `file_keys`; notes: text files by their path without the ending; ignored: hidden files and no images.
    """

    paths: TextColumn
    size_bytes: NDArray[np.int64]
    tags: TextColumn
    keys: Keys
    notes: dict[str, Listed]
    ignored: int


def split_ending(path: str) -> tuple[str, str]:
    """A path without its ending, and the ending in small letters with its dot; "" where there is none."""
    stem, dot, ending = path.rpartition(".")
    return (stem, f".{ending.lower()}") if dot and "/" not in ending else (path, "")


def find_files(source: SourceStore, *, want_notes: bool) -> FileListing:
    """List `source`; raises DataError where it cannot be listed. `notes` stays empty unless wanted."""
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
    """What is remembered of a file: its image's upright size and `Profile`, or 0 x 0 and why it is rejected."""
    return HEADER.pack(*size, profile) + reason.encode()


@dataclass(frozen=True, kw_only=True)
class FileReader:
    """Opens files of `found` in `workers` threads, and remembers in `metadata` what they said."""

    dataset_id: str
    found: FileListing
    source: SourceStore
    metadata: CacheStore
    workers: int
    reporter: Reporter

    def read_headers(self) -> tuple[NDArray[np.int32], NDArray[np.uint8], dict[int, str]]:
        """The upright sizes [N, 2] of all files found, 0 x 0 where there is none, their color profiles [N], and why
        some are rejected, by row.
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
        """Why files are rejected as far as earlier runs have found out, by row; no file is opened."""
        remembered = FileMetadataCache(self.metadata, name=HEADERS)
        rows = remembered.find(self.found.keys)
        known = np.flatnonzero(rows != UNKNOWN)
        values = remembered.values(rows[known])
        told = np.flatnonzero(values.lengths > HEADER.size).tolist()
        return {int(known[place]): values[place][HEADER.size :].decode() for place in told}

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
        """The text file beside each image of `rows` that has one, by row, and why others cannot be read."""
        stems = (split_ending(path)[0] for path in self.found.paths.take(rows))
        beside = zip(rows.tolist(), map(self.found.notes.get, stems), strict=True)
        notes = {row: note for row, note in beside if note is not None}
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
        """What is known of each file of `keys` [N], calling `read(position)` for those of which nothing is.

        meanwhile: entered where there are such.
        Returns the positions of which something is known, what it is, and why the others could not be read: an OSError
        is not remembered, for it may be over next time.
        """
        remembered = FileMetadataCache(self.metadata, name=table)
        rows = remembered.find(keys)
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
                            remembered.add(keys[position], result)
                    advance(len(positions))
            remembered.flush()
            rows = remembered.find(keys)
        known = np.flatnonzero(rows != UNKNOWN)
        return known, remembered.values(rows[known]), failed
