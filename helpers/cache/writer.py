"""Writes finished entries from a thread while the next are being encoded, so that a kill costs only seconds."""

import queue
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from uuid import uuid4

from torch import Tensor

from helpers.cache.shard import SUFFIX, RawTensor, raw_tensors, shard_bytes
from helpers.storage.protocols import CacheStore

# Together with the current batch and the writing, a kill then costs less than 30 seconds of encoding.
FLUSH_SECONDS = 20.0
# For any write_batch_size: larger shards gain nothing and cost memory.
SHARD_LIMIT_BYTES = 64 * 2**20
BATCHES_WAITING = 4

Entries = Mapping[str, Mapping[str, Tensor]]


class ShardWriter:
    """Collects entries and writes every `write_batch_size` of them as one shard, from its own thread.

    Entries are also written when they are `flush_seconds` old, and when the writer is closed. Shard names are unique,
    so any number of writers can share a store.
    """

    def __init__(
        self,
        store: CacheStore,
        *,
        rank: int,
        write_batch_size: int,
        compress: bool = False,
        flush_seconds: float = FLUSH_SECONDS,
    ) -> None:
        self._store = store
        self._rank = rank
        self._write_batch_size = write_batch_size
        self._compress = compress
        self._flush_seconds = flush_seconds
        self._buffer: list[RawTensor] = []
        self._entries = 0
        self._size_bytes = 0
        self._deadline = float("inf")
        self._waiting: queue.Queue[Entries | None] = queue.Queue(BATCHES_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="cache-writer", daemon=True)
        self._thread.start()

    def add(self, entries: Entries) -> None:
        """Add encoded entries, by key; raises the error of writing earlier ones."""
        if self._error is not None:
            raise self._error
        self._waiting.put(entries)

    def close(self) -> None:
        """Write the remaining entries and return when they are on disk; raises the error of writing."""
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._collect()
        except BaseException as error:  # raised by `add` or `close`, in the thread that encodes
            self._error = error
            while self._waiting.get() is not None:
                pass

    def _collect(self) -> None:
        while True:
            try:
                entries = self._waiting.get(timeout=self._seconds_left())
            except queue.Empty:
                self._flush()
                continue
            if entries is None:
                return self._flush()
            for key, tensors in entries.items():
                self._keep(raw_tensors(key, tensors, compress=self._compress))

    def _keep(self, tensors: list[RawTensor]) -> None:
        if not self._buffer:
            self._deadline = time.monotonic() + self._flush_seconds
        self._buffer += tensors
        self._entries += 1
        self._size_bytes += sum(len(tensor.content) for tensor in tensors)
        full = self._entries >= self._write_batch_size or self._size_bytes >= SHARD_LIMIT_BYTES
        if full or self._seconds_left() == 0:
            self._flush()

    def _seconds_left(self) -> float | None:
        """Seconds until the collected entries must be written; None if there are none."""
        return max(0.0, self._deadline - time.monotonic()) if self._buffer else None

    def _flush(self) -> None:
        if self._buffer:
            self._store.write(f"shard-{self._rank}-{uuid4().hex}{SUFFIX}", shard_bytes(self._buffer))
        self._buffer, self._entries, self._size_bytes = [], 0, 0
