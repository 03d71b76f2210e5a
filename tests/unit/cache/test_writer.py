"""What is encoded is written soon and in whole shards, and never piles up in memory."""

import threading
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.cache.shard import read_header
from helpers.cache.store import open_tensors
from helpers.cache.writer import ShardWriter
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import drawn
from tests.unit.cache.test_store import entry, fill, key, same, shards


def test_half_a_minute_s_entries_are_written_by_default_however_few_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill costs 30 seconds of encoding at most; the clock stands at 0 for the first entry, and then at 30 s."""
    clock = chain([0.0], repeat(30.0))
    monkeypatch.setattr("helpers.cache.writer.time", SimpleNamespace(monotonic=lambda: next(clock)))
    fill(LocalCache(tmp_path), range(3), each=1000)
    assert sorted(len(read_header(shard)) for shard in shards(tmp_path)) == [2, 4], (
        "the first alone, the others at the end"
    )


def test_a_disk_that_stands_still_holds_the_encoder_back_instead_of_filling_memory(tmp_path: Path) -> None:
    writes, released = threading.Event(), threading.Event()

    class Stuck(LocalCache):
        def write(self, name: str, content: bytes) -> None:
            writes.set()
            released.wait(60)
            super().write(name, content)

    accepted: list[int] = []
    store = Stuck(tmp_path / "cache")

    def encode() -> None:
        with ShardWriter(store, rank=0, write_batch_size=1) as writer:
            for number in range(100):
                writer.add({key(number): entry(number)})
                accepted.append(number)

    thread = threading.Thread(target=encode)
    thread.start()
    assert writes.wait(60)
    thread.join(timeout=0.5)  # long enough to hand over all of them where nothing holds it back
    waiting = len(accepted)
    released.set()
    thread.join()
    assert waiting < 20
    assert same(open_tensors(store), range(100))


@pytest.mark.parametrize("outputs", range(1, 9))
def test_a_shard_s_tensors_begin_at_a_multiple_of_eight_bytes(tmp_path: Path, outputs: int) -> None:
    """As in files of safetensors' own, so that numbers of any width are read where they lie."""
    with ShardWriter(LocalCache(tmp_path), rank=0, write_batch_size=1) as writer:
        writer.add({key(0): {"h" * outputs: drawn("odd", 3)}})
    assert read_header(shards(tmp_path)[0])[0].start % 8 == 0
