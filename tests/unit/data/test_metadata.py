"""What was learned of files survives kills, merges and damage."""

from pathlib import Path

import numpy as np
import pytest

from helpers.data.catalog import known_files as metadata
from helpers.data.catalog.known_files import MOST_PARTS, UNKNOWN, FileMetadataCache, file_keys
from helpers.storage.local import LocalCache


def keys_of(*paths: str) -> metadata.Keys:
    return file_keys(paths, [1] * len(paths), ["t"] * len(paths))


def told(store: LocalCache, *paths: str) -> list[bytes | None]:
    remembered = FileMetadataCache(store, name="facts")
    rows = remembered.find(keys_of(*paths))
    return [remembered.values(rows[i : i + 1])[0] if row != UNKNOWN else None for i, row in enumerate(rows.tolist())]


def tell(store: LocalCache, **facts: bytes) -> None:
    remembered = FileMetadataCache(store, name="facts")
    for path, fact in facts.items():
        remembered.add(keys_of(path)[0], fact)
    remembered.flush()


def test_a_key_depends_on_path_size_and_tag() -> None:
    keys = file_keys(["a", "b", "a", "a", "a1"], [1, 1, 2, 1, 2], ["t", "t", "t", "u", "t"])
    assert len(np.unique(keys[:, 0])) == 5
    assert (file_keys(["a"], [1], ["t"])[0] == keys[0]).all()


def test_what_is_told_is_known_at_the_next_start(tmp_path: Path) -> None:
    store = LocalCache(tmp_path)
    assert told(store, "a") == [None]
    tell(store, a=b"1", b=b"")
    tell(store, c=b"3")
    assert told(store, "c", "nothing", "a", "b") == [b"3", None, b"1", b""]


def test_the_longer_of_two_values_holds_whichever_came_first(tmp_path: Path) -> None:
    store = LocalCache(tmp_path)
    tell(store, a=b"size", b=b"size and why not")
    tell(store, a=b"size and why not", b=b"size")
    assert told(store, "a", "b") == [b"size and why not"] * 2


def test_parts_are_written_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalCache(tmp_path)
    monkeypatch.setattr(metadata, "ROWS_PER_PART", 10)
    remembered = FileMetadataCache(store, name="facts")
    for number in range(25):
        remembered.add(keys_of(f"{number}")[0], b"x")
    # Killed here: nothing was flushed, and what was written before is known.
    assert [value is None for value in told(store, *map(str, range(25)))] == [False] * 20 + [True] * 5


def test_a_slow_scan_is_written_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "SECONDS_PER_PART", 0.0)
    store = LocalCache(tmp_path)
    FileMetadataCache(store, name="facts").add(keys_of("a")[0], b"x")
    assert told(store, "a") == [b"x"]


def test_many_parts_are_merged(tmp_path: Path) -> None:
    store = LocalCache(tmp_path)
    for number in range(MOST_PARTS + 1):
        tell(store, **{f"p{number}": str(number).encode()})
    assert len(store.sizes()) == 1
    paths = [f"p{number}" for number in range(MOST_PARTS + 1)]
    assert told(store, *paths) == [str(number).encode() for number in range(MOST_PARTS + 1)]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_part_is_named_and_found_out_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = LocalCache(tmp_path)
    tell(store, a=b"1" * 50)
    tell(store, b=b"2")
    part = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    content = part.read_bytes()
    middle = content.index(b"1" * 50) + 10
    flipped = content[:middle] + b"0" + content[middle + 1 :]
    part.write_bytes({"cut": content[: len(content) // 2], "flipped": flipped, "empty": b""}[damage])
    assert told(store, "a", "b") == [None, b"2"]
    assert part.name in caplog.text
    assert not part.exists()


class MergedMeanwhile(LocalCache):
    """A folder of which another process merges the parts just after they were listed for the first time."""

    listings = 0

    def sizes(self) -> dict[str, int]:
        listed = super().sizes()
        self.listings += 1
        if self.listings == 1:
            for number in range(MOST_PARTS):
                tell(LocalCache(self.local_path("")), **{f"p{number}": b"x"})
        return listed


def test_parts_merged_by_another_process_are_found_again(tmp_path: Path) -> None:
    tell(LocalCache(tmp_path), a=b"1")
    store = MergedMeanwhile(tmp_path)
    assert told(store, "a", "p0") == [b"1", b"x"]
    assert store.listings == 2


def test_tables_of_other_names_stay_apart(tmp_path: Path) -> None:
    store = LocalCache(tmp_path)
    tell(store, a=b"1")
    rows = FileMetadataCache(store, name="other").find(keys_of("a"))
    assert rows.tolist() == [UNKNOWN]
