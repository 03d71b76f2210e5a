"""Downloads files from untrusted URLs, with limits on time, size, redirects and requests per server.

Messages never contain a URL: its query, or the part before its @, may be a secret.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from helpers import __version__
from helpers.errors import DataError

if TYPE_CHECKING:
    import httpx

WAITING_PER_PLACE = 16
"""URLs queued per concurrent request, so that one slow host does not block the others."""

SILENT_AT_MOST = 64
"""Failed connections in a row after which the network counts as down."""

TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """Limits of one download. seconds: per try; size_bytes: of the file; per_host: concurrent requests to one host;
    pause_seconds: before the second try, doubled before each further try.
    """

    seconds: float = 60.0
    size_bytes: int = 64 << 20
    redirects: int = 5
    per_host: int = 8
    tries: int = 3
    pause_seconds: float = 1.0


NO_ADDRESS = "it is not an http or https URL"


class _NoAddress(Exception):
    """A string that is not a URL with a server."""


class NotFetched(Exception):
    """A failed download; `reason` says why, as a phrase that follows `cannot be downloaded: `.

    reached: whether a server answered; passing: whether another try may succeed.
    """

    def __init__(self, reason: str, *, reached: bool = True, passing: bool = False) -> None:
        self.reason, self.reached, self.passing = reason, reached, passing
        super().__init__(reason)


def fetch_all(
    wanted: Iterable[tuple[str, str]],
    *,
    keep: Callable[[str, bytes], None],
    give_up: Callable[[str, str], None],
    at_once: int,
    limits: FetchLimits,
) -> None:
    """Download each (name, URL), `at_once` at a time, and call `keep(name, content)` or `give_up(name, reason)`.

    `keep` is called in threads. Raises DataError if no server can be reached any more; neither function is called for
    those URLs. An exception of `keep` or `give_up` ends the downloads.
    """
    try:
        asyncio.run(_fetch_all(wanted, keep=keep, give_up=give_up, at_once=at_once, limits=limits))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _fetch_all(
    wanted: Iterable[tuple[str, str]],
    *,
    keep: Callable[[str, bytes], None],
    give_up: Callable[[str, str], None],
    at_once: int,
    limits: FetchLimits,
) -> None:
    room = asyncio.Semaphore(WAITING_PER_PLACE * at_once)
    places = asyncio.Semaphore(at_once)
    hosts: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
    unreachable: list[tuple[str, str]] = []
    answered = asyncio.Event()

    async def fetch(name: str, url: str) -> None:
        try:
            host = hosts.setdefault(_host(url), asyncio.Semaphore(limits.per_host))
            async with host, places:
                content = await fetch_with_retries(client, url, limits=limits)
                await asyncio.to_thread(keep, name, content)
        except _NoAddress:
            give_up(name, NO_ADDRESS)
            return
        except NotFetched as failure:
            unreachable.append((name, failure.reason))
            if not failure.reached:
                _raise_if_cut_off(unreachable, at_least=SILENT_AT_MOST)
                return
        finally:
            room.release()
        answered.set()
        while unreachable:  # another server answered, so these servers are down and not the network
            give_up(*unreachable.pop())

    async with open_client(at_once=at_once, limits=limits) as client, asyncio.TaskGroup() as tasks:
        for name, url in wanted:
            await room.acquire()
            tasks.create_task(fetch(name, url))
    if not answered.is_set():
        _raise_if_cut_off(unreachable, at_least=1)
    for name, reason in unreachable:
        give_up(name, reason)


def _raise_if_cut_off(unreachable: list[tuple[str, str]], *, at_least: int) -> None:
    if len(unreachable) >= at_least:
        raise DataError(
            f"the last {len(unreachable)} URLs could not be reached ({unreachable[-1][1]}). Check your network "
            "connection and start again: downloaded files are kept, and these URLs are tried again."
        )


def open_client(*, at_once: int, limits: FetchLimits) -> "httpx.AsyncClient":
    """A client without cookies that requests uncompressed files."""
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx

    return httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=limits.redirects,
        timeout=httpx.Timeout(limits.seconds, pool=None),
        limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
        headers={"User-Agent": f"SimpleTuner/{__version__}", "Accept": "image/*,*/*", "Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


async def fetch_with_retries(client: "httpx.AsyncClient", url: str, *, limits: FetchLimits) -> bytes:
    """The content at a URL, with retries if another try may succeed; raises NotFetched."""
    for earlier_tries in range(limits.tries - 1):
        try:
            return await _fetch_once(client, url, limits=limits)
        except NotFetched as failure:
            if not failure.passing:
                raise
        await asyncio.sleep(limits.pause_seconds * 2**earlier_tries)
    return await _fetch_once(client, url, limits=limits)


async def _fetch_once(client: "httpx.AsyncClient", url: str, *, limits: FetchLimits) -> bytes:
    import httpx

    try:
        async with asyncio.timeout(limits.seconds), client.stream("GET", url) as response:
            return await _body(response, limits=limits)
    except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout) as error:
        raise NotFetched(f"it took more than {limits.seconds:g} seconds") from error
    except httpx.TooManyRedirects as error:
        raise NotFetched(f"it is redirected more than {limits.redirects} times") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError) as error:
        raise NotFetched("it redirects to something that is not an http or https URL") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotFetched("its server cannot be reached", reached=False, passing=True) from error
    except httpx.HTTPError as error:
        raise NotFetched("the connection was lost", passing=True) from error


async def _body(response: "httpx.Response", *, limits: FetchLimits) -> bytes:
    """The bytes of a response, never decompressed: images hardly compress, and a decompression bomb does no harm."""
    if response.status_code != 200:
        status = f"the server answers {response.status_code} {response.reason_phrase}".strip()
        raise NotFetched(status, passing=response.status_code in TRY_AGAIN)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NotFetched("the server sends it compressed, although an uncompressed file was requested")
    content = bytearray()
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > limits.size_bytes:
        raise NotFetched(_too_large(limits))
    async for part in response.aiter_raw():
        content += part
        if len(content) > limits.size_bytes:
            raise NotFetched(_too_large(limits))
    return bytes(content)


def _too_large(limits: FetchLimits) -> str:
    return f"it is larger than {limits.size_bytes / 2**20:g} MiB"


def _host(url: str) -> str:
    """The host of a URL, whose requests are limited together; raises _NoAddress if there is none."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _NoAddress from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _NoAddress
    return parsed.host
