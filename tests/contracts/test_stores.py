"""What every store must do, run against each of them."""

from pathlib import Path

import pytest

from helpers.storage.local import LocalCache, LocalSource
from helpers.storage.protocols import CacheStore, Listed, SourceStore
from helpers.storage.s3 import BucketCache, BucketSource
from tests.buckets import KEYS, BucketServer

FILES = {"b.png": b"bb", "a/c.png": b"ccc", "a.png": b"a", "a/b/deep one.txt": b"", "a-1.png": b"x" * 70_000}


def local_source(folder: Path) -> SourceStore:
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return LocalSource(folder)


def local_cache(folder: Path) -> CacheStore:
    return LocalCache(folder / "not" / "yet" / "there")


def bucket_source(folder: Path, server: BucketServer) -> SourceStore:
    address = server.address(f"source-{abs(hash(folder))}", prefix="some/images")
    for path, content in FILES.items():
        server.put(address.bucket, f"some/images/{path}", content)
    server.put(address.bucket, "some/images of others/x.png", b"not ours")
    return BucketSource(address)


def bucket_cache(folder: Path, server: BucketServer) -> CacheStore:
    return BucketCache(server.address(f"cache-{abs(hash(folder))}", prefix="kept"), mirror=folder / "mirror")


@pytest.fixture(params=["local", "bucket"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> SourceStore:
    if request.param == "local":
        return local_source(tmp_path)
    return bucket_source(tmp_path, request.getfixturevalue("buckets"))


@pytest.fixture(params=["local", "bucket"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> CacheStore:
    if request.param == "local":
        return local_cache(tmp_path)
    return bucket_cache(tmp_path, request.getfixturevalue("buckets"))


def test_source_lists_every_file_by_path_with_its_size(source: SourceStore) -> None:
    listed = list(source.list())
    assert [file.path for file in listed] == sorted(FILES)
    assert {file.path: file.size_bytes for file in listed} == {path: len(content) for path, content in FILES.items()}


def test_source_tags_stay_while_files_do(source: SourceStore) -> None:
    assert list(source.list()) == list(source.list())
    assert all(isinstance(file, Listed) and file.tag for file in source.list())


def test_source_reads_whole_files_and_starts(source: SourceStore) -> None:
    for path, content in FILES.items():
        assert source.read(path) == content
        assert source.read_start(path, 2) == content[:2]
        assert source.read_start(path, 1_000_000) == content


def test_source_says_which_file_is_gone(source: SourceStore) -> None:
    with pytest.raises(OSError):
        source.read("nowhere.png")
    with pytest.raises(OSError):
        source.read_start("nowhere.png", 10)


def test_source_cannot_change_anything(source: SourceStore) -> None:
    assert not [name for name in dir(source) if name in ("write", "remove", "delete", "local_path")]


def test_cache_is_empty_before_the_first_file(cache: CacheStore) -> None:
    assert cache.sizes() == {}


def test_cache_gives_back_what_was_written(cache: CacheStore) -> None:
    cache.write("one.bin", b"1" * 100)
    cache.write("two.bin", b"")
    assert cache.sizes() == {"one.bin": 100, "two.bin": 0}
    assert cache.local_path("one.bin").read_bytes() == b"1" * 100


def test_cache_replaces_a_file_whole(cache: CacheStore) -> None:
    cache.write("one.bin", b"old and long")
    with cache.local_path("one.bin").open("rb") as reader:
        cache.write("one.bin", b"new")
        assert reader.read() == b"old and long"
    assert cache.local_path("one.bin").read_bytes() == b"new"


def test_cache_removes_a_file_that_may_be_gone(cache: CacheStore) -> None:
    cache.write("one.bin", b"1")
    cache.remove("one.bin")
    cache.remove("one.bin")
    assert cache.sizes() == {}


def test_stores_say_where_they_are(source: SourceStore, cache: CacheStore, tmp_path: Path) -> None:
    for place in (source.describe(), cache.describe()):
        assert str(tmp_path) in place or str(abs(hash(tmp_path))) in place
        assert not any(key and key in place for key in KEYS)
