"""Buckets are read and written with patience, and each thing that can be wrong with one is told once, with its fix."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers.errors import CacheError, DataError
from helpers.storage import s3 as bucket
from helpers.storage.s3 import BucketAddress, BucketCache, BucketSource
from tests.buckets import BucketServer, signature_server
from tests.faulty import faulty_proxy


def test_more_names_than_one_answer_holds_are_all_listed(
    buckets: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # the server's own setting; Amazon answers with 1,000
    address = buckets.address("many", prefix="in")
    names = [f"{number:04}.png" for number in range(35)]
    for name in names:
        buckets.put("many", f"in/{name}", b"x")
    buckets.put("many", "out/other.png", b"x")
    answer = buckets.client.list_objects_v2(Bucket="many")
    assert answer["IsTruncated"], "the server pages"
    assert [listed.path for listed in BucketSource(address).list()] == names


def test_odd_names_are_read_as_they_are_listed(buckets: BucketServer) -> None:
    names = ["100% + é?.png", "a#b.png", "with space.png", "~tilde&.png"]
    address = buckets.address("odd")
    for name in names:
        buckets.put("odd", name, name.encode())
    source = BucketSource(address)
    assert [listed.path for listed in source.list()] == sorted(names)
    assert [source.read(name) for name in names] == [name.encode() for name in names]


def test_hidden_names_are_not_listed(buckets: BucketServer) -> None:
    address = buckets.address("hidden")
    for name in (".git/x.png", "a/.cache/y.png", "a/z.png"):
        buckets.put("hidden", name, b"x")
    assert [listed.path for listed in BucketSource(address).list()] == ["a/z.png"]


def test_a_missing_bucket_is_named_with_the_cure(buckets: BucketServer) -> None:
    address = replace(buckets.address("there"), bucket="not-there")
    with pytest.raises(DataError, match=r"(?s)not-there.*there is no such bucket.*aws_bucket_name"):
        list(BucketSource(address).list())


def test_a_dead_endpoint_is_told_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    address = BucketAddress(bucket="b", endpoint=endpoint, credentials=("k", "s", None))
    started = time.monotonic()
    with pytest.raises(DataError, match=r"(?s)the server does not respond.*aws_endpoint_url"):
        list(BucketSource(address).list())
    with pytest.raises(CacheError, match="the server does not respond"):
        BucketCache(address, mirror=Path("unused")).sizes()
    assert time.monotonic() - started < 45, "bounded, not timed"


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that looks at signatures, with one bucket `images` of one image."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"a")
    with signature_server(folder, access="right-key", secret="right-secret") as endpoint:
        yield endpoint


def test_the_right_secret_opens_and_a_wrong_one_is_told_without_showing_it(strict_server: str) -> None:
    right = BucketAddress(bucket="images", endpoint=strict_server, credentials=("right-key", "right-secret", None))
    assert [listed.path for listed in BucketSource(right).list()] == ["a.png"]
    wrong = replace(right, credentials=("right-key", "wrong-secret", None))
    with pytest.raises(DataError, match=r"(?s)the key was rejected.*aws_secret_access_key") as caught:
        list(BucketSource(wrong).list())
    assert "wrong-secret" not in f"{caught.value}{caught.value.__cause__}{wrong!r}"
    with pytest.raises(OSError, match="the key was rejected"):
        BucketSource(wrong).read("a.png")


def test_answers_that_fail_are_asked_for_again(buckets: BucketServer, tmp_path: Path) -> None:
    address = buckets.address("patience")
    contents = {f"{number:02}.png": bytes([number]) * 50_000 for number in range(24)}
    for name, content in contents.items():
        buckets.put("patience", name, content)
    with faulty_proxy(buckets.endpoint, every=4) as (endpoint, faults):
        source = BucketSource(replace(address, endpoint=endpoint))
        assert {listed.path: source.read(listed.path) for listed in source.list()} == contents
        cache = BucketCache(replace(address, endpoint=endpoint).under("kept"), mirror=tmp_path / "one")
        for name, content in contents.items():
            cache.write(name, content)
        other = BucketCache(replace(address, endpoint=endpoint).under("kept"), mirror=tmp_path / "two")
        assert {name: other.local_path(name).read_bytes() for name in other.sizes()} == contents
        assert set(faults) == {"error", "throttled", "cut", "dropped"}


def test_a_listing_goes_on_behind_the_last_name_when_an_answer_breaks_off(
    buckets: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    monkeypatch.setattr(bucket, "LISTED_AT_ONCE", 10)
    address = buckets.address("long", prefix="in")
    names = [f"{number:04}.png" for number in range(120)]
    for name in names:
        buckets.put("long", f"in/{name}", b"x")
    with faulty_proxy(buckets.endpoint, every=3) as (endpoint, faults):
        far = replace(address, endpoint=endpoint)
        assert [listed.path for listed in BucketSource(far).list()] == names
        assert len(faults) < 24, "twelve pages, and what was asked again"
        assert "cut" in faults
        assert list(BucketCache(far, mirror=Path("unused")).sizes()) == names


@pytest.mark.parametrize(
    ("status", "said", "fix"),
    [
        (400, "AuthorizationHeaderMalformed", "in this region. Check aws_region_name"),
        (301, "PermanentRedirect", "in this region. Check aws_region_name"),
        (404, "a page of some website", "aws_endpoint_url"),
    ],
)
def test_what_another_place_answers_is_told_at_once_with_the_cure(status: int, said: str, fix: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = f"<Error><Code>{said}</Code></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        address = BucketAddress(bucket="there", endpoint=endpoint, credentials=("k", "s", None))
        with pytest.raises(DataError, match=re.escape(fix)):
            list(BucketSource(address).list())
        server.shutdown()
        thread.join()
