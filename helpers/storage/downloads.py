"""A folder of downloaded files, and a dataset source that reads it; a file is never downloaded twice.

File names are hashes of the URL and the content, so a URL cannot cause an unsafe path.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from helpers.errors import CacheError
from helpers.storage.http import FetchLimits, fetch_all
from helpers.storage.local import FIX, LocalCache
from helpers.storage.protocols import FileMissing, Listed

ADDRESS_DIGITS, CONTENT_DIGITS = 24, 16
FAILED = "failed.jsonl"
SHOWN_CHARACTERS = 160
ADDRESS = re.compile(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*://)?(?:[^/?#]*@)?([^?#]*)")
ODD = re.compile(r"[^ -~]")
HIDDEN = re.compile(r"(^|/)\.+")


def name_of(url: str) -> str:
    """The name of the file at a URL: host and path, without parts that may be secret, and a hash of the whole URL."""
    match = ADDRESS.match(url)
    shown = match[1][:SHOWN_CHARACTERS] if match else ""
    if not (shown.isascii() and shown.isprintable()):
        shown = ODD.sub("_", shown)
    if "/." in shown or shown.startswith("."):
        shown = HIDDEN.sub(r"\1_", shown)
    return f"{shown}#{hashlib.blake2b(url.encode(), digest_size=ADDRESS_DIGITS // 2).hexdigest()}"


class Downloads:
    """The files downloaded into a folder when this object was created, by the names of `name_of`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._failed = self._read_failed()
        addresses, tags, sizes = [], [], []
        for number in range(256):
            for name, size in LocalCache(root / f"{number:02x}").sizes().items():
                address, _, tag = name.partition("-")
                addresses.append(address)
                tags.append(tag)
                sizes.append(size)
        self._addresses = np.array(addresses, f"S{ADDRESS_DIGITS}")
        self._tags = np.array(tags, f"S{CONTENT_DIGITS}")
        self._sizes = np.array(sizes, np.int64)

    def missing(self, names: Sequence[str], *, retry_failed: bool) -> list[int]:
        """The indices in `names` of missing files; failed downloads count as missing only with `retry_failed`."""
        gone = np.flatnonzero(self._rows(names) < 0).tolist()
        return [place for place in gone if retry_failed or _address(names[place]) not in self._failed]

    def download(
        self,
        wanted: Iterator[tuple[str, str]],
        *,
        at_once: int,
        limits: FetchLimits,
        advance: Callable[[], None],
    ) -> None:
        """Download each (name, URL); raises DataError if the network is down, CacheError if a file can't be written."""
        folders = [LocalCache(self._root / f"{number:02x}") for number in range(256)]
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with (self._root / FAILED).open("a", encoding="ascii") as failed:

                def keep(name: str, content: bytes) -> None:
                    address = _address(name)
                    tag = hashlib.blake2b(content, digest_size=CONTENT_DIGITS // 2).hexdigest()
                    folders[int(address[:2], 16)].write(f"{address}-{tag}", content)
                    advance()

                def give_up(name: str, reason: str) -> None:
                    failed.write("\n" + json.dumps({"name": name, "reason": reason}))
                    failed.flush()
                    advance()

                fetch_all(wanted, keep=keep, give_up=give_up, at_once=at_once, limits=limits)
        except OSError as error:
            raise CacheError(f"cannot write in {self._root}: {error.strerror}. {FIX}") from error

    def listed(self, names: Sequence[str]) -> Iterator[Listed]:
        """The files of these names, in order; missing files have size 0 and no tag."""
        rows = self._rows(names)
        for name, row in zip(names, rows.tolist(), strict=True):
            yield Listed(name, int(self._sizes[row]), self._tag(row)) if row >= 0 else Listed(name, 0, "")

    def local_path(self, name: str) -> Path:
        """The path of a file; raises FileMissing with the reason if it could not be downloaded."""
        address = _address(name)
        row = int(self._rows([name])[0])
        if row < 0:
            raise FileMissing(f"cannot be downloaded: {self._failed.get(address, 'it was not requested yet')}")
        return self._root / address[:2] / f"{address}-{self._tag(row)}"

    def _tag(self, row: int) -> str:
        return bytes(self._tags[row]).decode("ascii")

    def _rows(self, names: Sequence[str]) -> np.ndarray:
        """The row of each name [N], -1 if the file is missing."""
        wanted = np.fromiter((_address(name).encode() for name in names), self._addresses.dtype, len(names))
        if not len(self._addresses):
            return np.full(len(wanted), -1)
        # Folders and files are read in the order of their names, so the addresses are sorted.
        rows = np.minimum(np.searchsorted(self._addresses, wanted), len(self._addresses) - 1)
        return np.where(self._addresses[rows] == wanted, rows, -1)

    def _read_failed(self) -> dict[str, str]:
        """The reasons of failed downloads, by address; incomplete lines of a killed run are skipped."""
        failed: dict[str, str] = {}
        try:
            with (self._root / FAILED).open(encoding="ascii") as lines:
                for line in lines:
                    try:
                        entry = json.loads(line)
                        failed[_address(entry["name"])] = sys.intern(entry["reason"])
                    except (ValueError, KeyError, TypeError):
                        continue
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CacheError(f"cannot read {self._root / FAILED}: {error.strerror}. {FIX}") from error
        return failed


class DownloadedSource:
    """The files at a table's URLs, by `names` (from `name_of`, sorted, unique)."""

    def __init__(self, downloads: Downloads, *, names: Sequence[str], place: str) -> None:
        self._downloads, self._names, self._place = downloads, names, place

    def list(self) -> Iterator[Listed]:
        """Every file; those that could not be downloaded have no tag, and reading them raises the reason."""
        return self._downloads.listed(self._names)

    def read(self, path: str) -> bytes:
        """A file's bytes; raises OSError if it cannot be read or could not be downloaded."""
        return self._downloads.local_path(path).read_bytes()

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of a file, or all if it is shorter; raises OSError."""
        with self._downloads.local_path(path).open("rb", buffering=0) as file:
            return file.read(length)

    def describe(self) -> str:
        """The table, for messages."""
        return self._place


def _address(name: str) -> str:
    return name[-ADDRESS_DIGITS:]
