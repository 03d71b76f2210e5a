"""Pruning removes what is not used and nothing else, whenever it stops; each shard is checked by one process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.cache.maintenance import contents, open_and_check, prune
from helpers.cache.store import open_tensors
from helpers.ranks import SingleProcess
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import Heard
from tests.unit.cache.test_store import fill, keys, same, shards
from tests.unit.cache.test_store import folder as folder
from tests.unit.cache.test_store import store as store


def test_unused_entries_are_counted_and_removed_only_on_request(store: LocalCache, folder: Path) -> None:
    fill(store, range(10))
    open_tensors(store).compact()
    used = keys(0, 1, 2, 8)
    found = contents(open_tensors(store), used=used)
    assert (found.entries, found.unused_entries) == (10, 6)
    assert 0.55 < found.unused_bytes / found.size_bytes < 0.65
    assert same(open_tensors(store), range(10))
    before = sum(path.stat().st_size for path in shards(folder))
    assert prune(store, used=used) == found
    tensors = open_tensors(store)
    assert tensors.missing(keys(*range(10))).nonzero()[0].tolist() == [3, 4, 5, 6, 7, 9]
    assert same(tensors, (0, 1, 2, 8))
    assert not list(tensors.problems()) and not tensors.unindexed and not tensors.stale
    assert before - sum(path.stat().st_size for path in shards(folder)) > found.unused_bytes
    left = contents(tensors, used=used)
    assert (left.entries, left.unused_entries, left.unused_bytes) == (4, 0, 0)


def test_pruning_rewrites_only_shards_that_mix_used_and_unused_entries(store: LocalCache, folder: Path) -> None:
    fill(store, range(9), each=3)
    before = {path: path.read_bytes() for path in shards(folder)}
    prune(store, used=keys(0, 1, 2, 3))
    after = {path: path.read_bytes() for path in shards(folder)}
    assert len(before.keys() & after.keys()) == 1 and len(after) == 2
    assert all(before[path] == after[path] for path in before.keys() & after.keys())
    assert same(open_tensors(store), range(4))
    prune(store, used=keys(99))
    assert shards(folder) == [] and not list(open_tensors(store).problems())


@pytest.mark.parametrize("call", range(1, 9))
def test_a_prune_cut_short_loses_no_used_entry(
    store: LocalCache, folder: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """As a kill at each write or removal would."""
    fill(store, range(9), each=3)
    open_tensors(store).compact()
    calls = 0

    def counted(change: Callable[..., None]) -> Callable[..., None]:
        def changed(*arguments: object) -> None:
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            change(*arguments)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(LocalCache, "write", counted(LocalCache.write))
        patch.setattr(LocalCache, "remove", counted(LocalCache.remove))
        with pytest.raises(KeyboardInterrupt):
            prune(store, used=keys(0, 4, 8))
    assert same(open_tensors(store), (0, 4, 8))
    assert not list(open_tensors(store).problems())
    prune(store, used=keys(0, 4, 8))
    tensors = open_tensors(store)
    assert contents(tensors, used=keys(0, 4, 8)).unused_entries == 0 and same(tensors, (0, 4, 8))


def test_each_shard_is_checked_by_one_process_alone(store: LocalCache, folder: Path) -> None:
    """Two that take the damaged entry out of one shard would both keep its others."""
    fill(store, range(24))
    content = bytearray(shards(folder)[1].read_bytes())
    content[-1] ^= 1
    shards(folder)[1].write_bytes(content)
    warnings = []
    for rank in range(2):
        heard = Heard()
        ranks, reporter = SingleProcess(rank, 2), heard.reporter()
        open_and_check(store, scan_for_errors=True, describe=lambda _: None, ranks=ranks, reporter=reporter)
        warnings.append(len(heard.warnings))
    assert warnings == [0, 1]
