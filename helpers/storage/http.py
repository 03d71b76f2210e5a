"""Brings files from http addresses that nobody vouches for: bounded in time, size, redirects and demands on a server.

No address reaches a message from here: its query, or what stands before its @, may be a secret.
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
"""Addresses looked ahead for each that is asked at once, so that one slow host does not hold up the others."""

SILENT_AT_MOST = 64
"""Servers in a row that cannot be reached; after so many it is the network that is gone."""

TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one address may cost. seconds: each try; per_host: asked of one host at once; pause_seconds: between tries,
    twice as long before each further one.
    """

    seconds: float = 60.0
    size_bytes: int = 64 << 20
    redirects: int = 5
    per_host: int = 8
    tries: int = 3
    pause_seconds: float = 1.0


NO_ADDRESS = "it is no http or https address"


class _NoAddress(Exception):
    """A text that names no server."""


class NotFetched(Exception):
    """Nothing usable came from an address; `reason` says why, in words that go on from `cannot be downloaded: `.

    reached: a server answered; passing: another try may go better.
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
    """Ask for each (name, address), `at_once` at a time, and call `keep(name, content)` or `give_up(name, reason)`.

    `keep` is called in threads. Raises DataError when no server at all can be reached any more; for those addresses
    nothing is called. Whatever `keep` and `give_up` raise ends it.
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
    silent: list[tuple[str, str]] = []
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
            silent.append((name, failure.reason))
            if not failure.reached:
                _raise_if_cut_off(silent, at_least=SILENT_AT_MOST)
                return
        finally:
            room.release()
        answered.set()
        while silent:  # somebody answered, so these are gone and not the network
            give_up(*silent.pop())

    async with open_client(at_once=at_once, limits=limits) as client, asyncio.TaskGroup() as tasks:
        for name, url in wanted:
            await room.acquire()
            tasks.create_task(fetch(name, url))
    if not answered.is_set():
        _raise_if_cut_off(silent, at_least=1)
    for name, reason in silent:
        give_up(name, reason)


def _raise_if_cut_off(silent: list[tuple[str, str]], *, at_least: int) -> None:
    if len(silent) >= at_least:
        raise DataError(
            f"the last {len(silent)} addresses could not be reached ({silent[-1][1]}). Check this machine's network, "
            "and start again: what was downloaded stays, and these are asked for again."
        )


def open_client(*, at_once: int, limits: FetchLimits) -> "httpx.AsyncClient":
    """A client that keeps no cookies and asks for files as they are."""
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
    """The content at an address, asked for again where that may help; raises NotFetched."""
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
        raise NotFetched("it leads to what is no http or https address") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise NotFetched("its server cannot be reached", reached=False, passing=True) from error
    except httpx.HTTPError as error:
        raise NotFetched("it was cut off", passing=True) from error


async def _body(response: "httpx.Response", *, limits: FetchLimits) -> bytes:
    """The bytes of an answer as they were sent: an image does not get smaller, and a bomb is not unpacked."""
    if response.status_code != 200:
        said = f"the server answers {response.status_code} {response.reason_phrase}".strip()
        raise NotFetched(said, passing=response.status_code in TRY_AGAIN)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise NotFetched("it is sent compressed, though it was asked for as it is")
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
    """What is asked of one server counts together; raises _NoAddress where no server is named."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _NoAddress from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _NoAddress
    return parsed.host
