"""Downloads from a real web server: bounded, once, whole or not at all, and no secret of an address told."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.errors import CacheError, DataError
from helpers.storage.downloads import FAILED, DownloadedSource, Downloads, name_of
from helpers.storage.http import FetchLimits
from helpers.storage.protocols import FileMissing
from tests.runs.web_server import Site, serving

LIMITS = FetchLimits(seconds=0.6, size_bytes=100_000, redirects=3, per_host=4, pause_seconds=0.01)
FILES = {f"/{letter}.png": letter.encode() * 100 for letter in "abc"}
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(FILES) as site:
        yield site


def download(root: Path, *urls: str, at_once: int = 8, retry_failed: bool = False) -> DownloadedSource:
    """What a run does with these addresses."""
    by_name = {name_of(url): url for url in urls}
    names = sorted(by_name)
    downloads = Downloads(root)
    missing = downloads.missing(names, retry_failed=retry_failed)
    if missing:
        wanted = ((names[place], by_name[names[place]]) for place in missing)
        downloads.download(wanted, at_once=at_once, limits=LIMITS, advance=lambda: None)
    return DownloadedSource(Downloads(root), names=names, place="the table")


def reason(source: DownloadedSource, url: str) -> str:
    with pytest.raises(FileMissing) as caught:
        source.read(name_of(url))
    return str(caught.value)


def test_what_came_is_read_and_asked_for_once(tmp_path: Path, site: Site) -> None:
    urls = [site.url(path) for path in FILES]
    source = download(tmp_path, *urls)
    listed = list(source.list())
    assert [file.path for file in listed] == sorted(map(name_of, urls))
    assert all(file.size_bytes == 100 and file.tag for file in listed)
    assert source.read(name_of(urls[1])) == b"b" * 100
    assert source.read_start(name_of(urls[1]), 3) == b"bbb"
    assert list(download(tmp_path, *urls).list()) == listed
    assert site.asked.total() == 3


@pytest.mark.parametrize(
    ("path", "told", "requests"),
    [
        ("/nowhere", "the server answers 404 Not Found", 1),
        ("/gone", "the server answers 410 Gone", 1),
        ("/slow", "it took more than 0.6 seconds", 1),
        ("/huge", "it is larger than 0.0953674 MiB", 1),
        ("/endless", "it is larger than 0.0953674 MiB", 1),
        ("/cut", "the connection was lost", 3),
        ("/loop", "it is redirected more than 3 times", 4),
        ("/astray", "it redirects to something that is not an http or https URL", 1),
        ("/packed", "the server sends it compressed, although an uncompressed file was requested", 1),
    ],
)
def test_a_dead_address_is_known_with_its_reason(
    path: str, told: str, requests: int, tmp_path: Path, site: Site
) -> None:
    url, good = site.url(f"{path}?key=SECRET"), site.url("/a.png")
    source = download(tmp_path, url, good)
    assert reason(source, url) == f"cannot be downloaded: {told}"
    assert site.asked[path] == requests
    assert [file.size_bytes for file in source.list() if not file.tag] == [0]
    assert reason(download(tmp_path, url, good), url) == f"cannot be downloaded: {told}", "it is remembered"
    assert site.asked[path] == requests
    kept = (tmp_path / FAILED).read_text()
    assert "SECRET" not in kept and path in kept
    download(tmp_path, url, good, retry_failed=True)
    assert site.asked[path] == 2 * requests and site.asked["/a.png"] == 1


def test_what_is_busy_or_elsewhere_is_waited_for_and_followed(tmp_path: Path, site: Site) -> None:
    source = download(tmp_path, site.url("/busy"), site.url("/moved"))
    assert source.read(name_of(site.url("/busy"))) == source.read(name_of(site.url("/moved"))) == FILES["/a.png"]
    assert site.asked["/busy"] == 3


@pytest.mark.parametrize(
    "url", ["", "ftp://127.0.0.1/a.png", "file:///etc/passwd", "a.png", "http://", "http://[::1/x"]
)
def test_what_is_no_address_is_not_asked_for(url: str, tmp_path: Path, site: Site) -> None:
    source = download(tmp_path, url, site.url("/a.png"))
    assert reason(source, url) == "cannot be downloaded: it is not an http or https URL"


def test_hostile_addresses_stay_in_their_folder(tmp_path: Path, site: Site) -> None:
    paths = [
        "/../../escape.png",
        "/%2e%2e/x",
        "/a\nb.png",
        "/.hidden",
        "/" + "x" * 300,
        "/caf\u00e9.png",
        "/a.png\\..\\b",
    ]
    root = tmp_path / "downloads"
    source = download(root, *map(site.url, paths), site.url("/a.png"))
    assert {path.name for path in tmp_path.iterdir()} == {"downloads"}
    for file in source.list():
        assert file.path.isprintable() and "/." not in file.path and len(file.path) < 255


def test_a_name_tells_host_and_path_and_no_secret() -> None:
    name = name_of("https://user:PASS@example.com:8080/cats/1.jpg?token=SECRET#part")
    assert name.startswith("example.com:8080/cats/1.jpg#")
    assert name != name_of("https://user:PASS@example.com:8080/cats/1.jpg?token=other")


def test_one_host_is_asked_for_few_things_at_once(tmp_path: Path) -> None:
    with serving(FILES, slow_seconds=0.03) as site:
        download(tmp_path, *(site.url(f"/lazy/{number}") for number in range(24)), at_once=16)
        assert site.most_at_once == LIMITS.per_host
        assert site.asked.total() == 24
        seen = site.headers_seen[0]
    assert seen["User-Agent"].startswith("SimpleTuner/") and seen["Accept-Encoding"] == "identity"


def test_a_network_that_is_gone_is_held_against_no_address(tmp_path: Path) -> None:
    with serving(FILES) as site:
        url = site.url("/a.png")
    with pytest.raises(DataError, match="network"):
        download(tmp_path, url)
    assert Downloads(tmp_path).missing([name_of(url)], retry_failed=False) == [0]


def test_one_dead_server_among_others_is_remembered(tmp_path: Path, site: Site) -> None:
    with serving(FILES) as other:
        dead = other.url("/a.png")
    assert "its server cannot be reached" in reason(download(tmp_path, dead, site.url("/a.png")), dead)


def test_a_folder_that_cannot_be_written_to_is_one_clear_error(tmp_path: Path, site: Site) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match=str(tmp_path)):
        download(tmp_path / "file", site.url("/a.png"))


KILLED = """
import sys
from pathlib import Path
from tests.unit.storage.test_downloads import download
download(Path(sys.argv[1]), *sys.argv[2:], at_once=2)
"""


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    with serving(FILES, slow_seconds=0.05) as site:
        urls = [site.url(f"/lazy/{number}") for number in range(30)]
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), *urls], cwd=ROOT, env={**os.environ})
        deadline = time.monotonic() + 60
        while site.asked.total() < 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        here = len(urls) - len(Downloads(tmp_path).missing([*map(name_of, urls)], retry_failed=False))
        assert 5 <= here < 30
        with (tmp_path / FAILED).open("a") as file:
            file.write('\n{"name": "cut off in the mid')
        before = site.asked.total()
        source = download(tmp_path, *urls)
        assert site.asked.total() - before == 30 - here
        for url in urls:
            assert source.read(name_of(url)) == FILES["/a.png"] + url.removeprefix(site.url("")).encode(), "whole"


def test_failures_are_lines_of_json(tmp_path: Path, site: Site) -> None:
    download(tmp_path, site.url("/nowhere"), site.url("/gone"))
    lines = [json.loads(line) for line in (tmp_path / FAILED).read_text().splitlines() if line]
    assert sorted(line["reason"] for line in lines) == [
        "the server answers 404 Not Found",
        "the server answers 410 Gone",
    ]
