"""S3-compatible buckets, read and written through obstore, which pages, retries and keeps connections open."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from helpers.errors import CacheError, DataError
from helpers.storage.local import LocalCache
from helpers.storage.protocols import Listed

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Credential, S3Store

RETRIES = 6
LONGEST_RETRYING = timedelta(seconds=60)
FIRST_PAUSE, LONGEST_PAUSE = timedelta(milliseconds=100), timedelta(seconds=5)
CONNECT_SECONDS, SILENCE_SECONDS = 5, 30
LISTED_AT_ONCE = 1_000
DEFAULT_REGION = "us-east-1"

REFUSED = "the key is not accepted"
REFUSALS = ("403 Forbidden", "401 Unauthorized", "SignatureDoesNotMatch", "InvalidAccessKeyId")
ELSEWHERE = ("AuthorizationHeaderMalformed", "PermanentRedirect", "redirect without LOCATION")
NO_BUCKET = "there is no such bucket"
NO_ANSWER = "nothing answers there"
NO_SUCH_PART = "416 Range Not Satisfiable"

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class BucketAddress:
    """A bucket, and the folder `prefix` in it; `entry`: who named it, for messages.

    endpoint: of a service other than Amazon's. credentials: access key, secret and session token; without them the
    environment's (variables, a container's or a machine's role).
    """

    bucket: str
    prefix: str = ""
    entry: str = ""
    endpoint: str | None = None
    region: str | None = None
    credentials: tuple[str, str, str | None] | None = None

    def __str__(self) -> str:
        place = "/".join(part for part in (self.bucket, self.prefix.strip("/")) if part)
        whose = f" (entry {self.entry})" if self.entry else ""
        return f"the bucket {place}" + (f" at {self.endpoint}" if self.endpoint else "") + whose

    def __repr__(self) -> str:  # never the credentials
        return f"<{self}>"

    def under(self, *parts: str) -> "BucketAddress":
        """The same with a longer prefix."""
        prefix = "/".join(part.strip("/") for part in (self.prefix, *parts) if part.strip("/"))
        return replace(self, prefix=prefix)


class BucketSource:
    """A person's bucket of images: listed and read, and nothing else. Only names under the prefix are ever listed."""

    def __init__(self, address: BucketAddress) -> None:
        self._address = address
        self._store = _opened(address)

    def list(self) -> Iterator[Listed]:
        """Every object, in the order of their names; raises DataError with the fix where the bucket can't be read."""
        try:
            found = [
                Listed(meta["path"], meta["size"], (meta["e_tag"] or str(meta["last_modified"])).strip('"'))
                for meta in _objects(self._store)
                if not meta["path"].startswith(".") and "/." not in meta["path"]
            ]
        except OSError as error:
            raise DataError(f"cannot list {self._address}: {error}") from error
        # Amazon lists by name; others need not.
        yield from sorted(found, key=lambda listed: listed.path)

    def read(self, path: str) -> bytes:
        """An object's bytes; raises OSError where it cannot be read."""
        import obstore

        return _with_retries(lambda: bytes(obstore.get(self._store, path).bytes()))

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of an object, or all of a shorter one; raises OSError."""
        import obstore

        def ask() -> bytes:
            return bytes(obstore.get(self._store, path, options={"range": (0, length)}).bytes())

        try:
            return _with_retries(ask)
        except FileNotFoundError:
            raise
        except OSError:  # an empty object has no range
            return self.read(path)[:length]

    def describe(self) -> str:
        """The bucket, for messages; free of credentials."""
        return str(self._address)


class BucketCache:
    """Whole files in a bucket, each mirrored in a local folder when it is first needed, since training maps them.

    An object appears in a bucket whole or not at all. Names are never used twice for other bytes.
    """

    def __init__(self, address: BucketAddress, *, mirror: Path) -> None:
        self._address = address
        self._store = _opened(address)
        self._mirror = LocalCache(mirror)

    @property
    def folder(self) -> Path:
        """See `CacheStore`."""
        return self._mirror.folder

    def sizes(self) -> dict[str, int]:
        """The bytes of every file, by name; raises CacheError with the fix where the bucket can't be listed."""
        try:
            found = {meta["path"]: meta["size"] for meta in _objects(self._store) if "/" not in meta["path"]}
        except OSError as error:
            raise CacheError(f"cannot list {self._address}: {error}") from error
        return dict(sorted(found.items()))

    def is_here(self, name: str) -> bool:
        """Whether the mirror has a copy."""
        return self._mirror.is_here(name)

    def local_path(self, name: str) -> Path:
        """The mirror's copy, fetched where it is not there yet; a path to nothing where the bucket has no such file.

        Raises CacheError with the fix where it cannot be fetched or kept.
        """
        if not self.is_here(name):
            self._fetch(name)
        return self._mirror.local_path(name)

    def write(self, name: str, content: bytes) -> None:
        """Write a file to the bucket, then to the mirror; raises CacheError naming the place."""
        import obstore

        try:
            _with_retries(lambda: obstore.put(self._store, name, content))
        except OSError as error:
            raise CacheError(
                f"cannot write {name} ({len(content) / 1e6:.1f} MB) in {self._address}: {error}"
            ) from error
        self._mirror.write(name, content)

    def remove(self, name: str) -> None:
        """Delete a file here and there; it may be gone already."""
        import obstore

        try:
            _with_retries(lambda: obstore.delete(self._store, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CacheError(f"cannot delete {name} in {self._address}: {error}") from error
        self._mirror.remove(name)

    def describe(self) -> str:
        """The bucket, for messages; free of credentials."""
        return str(self._address)

    def _fetch(self, name: str) -> None:
        import obstore

        try:
            content = _with_retries(lambda: bytes(obstore.get(self._store, name).bytes()))
        except FileNotFoundError:
            return
        except OSError as error:
            raise CacheError(f"cannot read {name} in {self._address}: {error}") from error
        self._mirror.write(name, content)


def _opened(address: BucketAddress) -> "S3Store":
    """The store behind an address; nothing is asked of it yet."""
    from obstore.store import S3Store

    given: dict[str, Any] = {"endpoint": address.endpoint.rstrip("/")} if address.endpoint else {}
    if address.credentials:
        given["credential_provider"] = _Credentials(address.credentials)
    return S3Store(
        address.bucket,
        prefix=address.prefix.strip("/") or None,
        region=address.region or DEFAULT_REGION,
        client_options={
            "allow_http": bool(address.endpoint and address.endpoint.startswith("http:")),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=SILENCE_SECONDS),
            "timeout": LONGEST_RETRYING * 10,
        },
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": LONGEST_RETRYING,
            "backoff": {"init_backoff": FIRST_PAUSE, "max_backoff": LONGEST_PAUSE, "base": 2},
        },
        **given,
    )


@dataclass(frozen=True)
class _Credentials:
    """What obstore asks for keys, so that a session token of the environment is not joined to keys of an entry."""

    keys: tuple[str, str, str | None]

    def __call__(self) -> "S3Credential":
        access, secret, token = self.keys
        return {"access_key_id": access, "secret_access_key": secret, "token": token, "expires_at": None}

    def __repr__(self) -> str:
        return "<credentials>"


def _objects(store: "S3Store") -> Iterator["ObjectMeta"]:
    """Every object, asking on behind the last name where an answer broke off; raises OSError."""
    import obstore

    last, patience = None, _Backoff()
    while True:
        try:
            for chunk in obstore.list(store, offset=last, chunk_size=LISTED_AT_ONCE):
                yield from chunk
                last, patience = chunk[-1]["path"], _Backoff()
            return
        except Exception as error:
            patience.wait(error)


def _with_retries(ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns, asked again where the answer broke off; raises OSError, of its kinds FileNotFoundError."""
    patience = _Backoff()
    while True:
        try:
            return ask()
        except Exception as error:
            patience.wait(error)


@dataclass
class _Backoff:
    """Waits longer after each failure in a row, up to a last one.

    The library itself asks again where a request fails before the first byte of its answer; this is for the rest.
    """

    failures: int = 0

    def wait(self, error: Exception) -> None:
        """Sleep a little, or raise OSError with the reason where that fixes nothing or has been tried enough."""
        reason = _reason(error)
        if isinstance(error, FileNotFoundError) and not reason.startswith(NO_BUCKET):
            raise error
        final = reason.startswith((REFUSED, NO_BUCKET, NO_ANSWER)) or NO_SUCH_PART in reason
        if final or self.failures == RETRIES:
            raise OSError(reason) from error
        time.sleep(min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE).total_seconds())
        self.failures += 1


def _reason(error: Exception) -> str:
    """Why a bucket refused, with the fix, in words that hold no keys."""
    said = str(error)
    lost = "404 Not Found" in said and not isinstance(error, FileNotFoundError)
    if lost or "NoSuchBucket" in said or "InvalidBucketName" in said:
        return f"{NO_BUCKET}. Check aws_bucket_name, aws_endpoint_url and aws_region_name."
    if any(word in said for word in ELSEWHERE):
        return f"{NO_BUCKET} in this region. Check aws_region_name."
    if any(word in said for word in REFUSALS):
        return (
            f"{REFUSED}, or may not do this. Check aws_access_key_id and aws_secret_access_key "
            "(without them, the environment's AWS settings), and the bucket's permissions."
        )
    if "error sending request" in said or "169.254." in said or "CredentialProvider" in said:
        return f"{NO_ANSWER}. Check aws_endpoint_url and the network; without keys, that this machine has a role."
    return said.split("\n", 1)[0][:300]
