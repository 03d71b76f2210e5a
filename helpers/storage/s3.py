"""S3-compatible buckets, accessed with obstore, which handles paging, retries and connections."""

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

REFUSED = "the key was rejected"
REFUSALS = ("403 Forbidden", "401 Unauthorized", "SignatureDoesNotMatch", "InvalidAccessKeyId")
ELSEWHERE = ("AuthorizationHeaderMalformed", "PermanentRedirect", "redirect without LOCATION")
NO_BUCKET = "there is no such bucket"
NO_ANSWER = "the server does not respond"
NO_SUCH_PART = "416 Range Not Satisfiable"

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class BucketAddress:
    """A bucket, and the folder `prefix` in it. entry: the entry of the dataset file, for messages.

    endpoint: for services other than Amazon's. credentials: access key, secret and session token; if not set, those of
    the environment are used (variables, or the role of the container or machine).
    """

    bucket: str
    prefix: str = ""
    entry: str = ""
    endpoint: str | None = None
    region: str | None = None
    credentials: tuple[str, str, str | None] | None = None

    def __str__(self) -> str:
        place = "/".join(part for part in (self.bucket, self.prefix.strip("/")) if part)
        entry = f" (entry {self.entry})" if self.entry else ""
        return f"the bucket {place}" + (f" at {self.endpoint}" if self.endpoint else "") + entry

    def __repr__(self) -> str:  # never the credentials
        return f"<{self}>"

    def under(self, *parts: str) -> "BucketAddress":
        """The same address with `parts` appended to the prefix."""
        prefix = "/".join(part.strip("/") for part in (self.prefix, *parts) if part.strip("/"))
        return replace(self, prefix=prefix)


class BucketSource:
    """A bucket of images, read-only. Only names under the prefix are listed."""

    def __init__(self, address: BucketAddress) -> None:
        self._address = address
        self._store = _opened(address)

    def list(self) -> Iterator[Listed]:
        """Every object, ordered by name; raises DataError with the fix if the bucket cannot be read."""
        try:
            found = [
                Listed(meta["path"], meta["size"], (meta["e_tag"] or str(meta["last_modified"])).strip('"'))
                for meta in _objects(self._store)
                if not meta["path"].startswith(".") and "/." not in meta["path"]
            ]
        except OSError as error:
            raise DataError(f"cannot list {self._address}: {error}") from error
        # Amazon lists by name; other services may not.
        yield from sorted(found, key=lambda listed: listed.path)

    def read(self, path: str) -> bytes:
        """An object's bytes; raises OSError if it cannot be read."""
        import obstore

        return _with_retries(lambda: bytes(obstore.get(self._store, path).bytes()))

    def read_start(self, path: str, length: int) -> bytes:
        """The first `length` bytes of an object, or all if it is shorter; raises OSError."""
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
        """The bucket, for messages; without credentials."""
        return str(self._address)


class BucketCache:
    """Files in a bucket, each copied to a local mirror when first needed, since training memory-maps them.

    Objects are written atomically. A name is never reused for other content.
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
        """The size in bytes of every file, by name; raises CacheError with the fix if the bucket cannot be listed."""
        try:
            found = {meta["path"]: meta["size"] for meta in _objects(self._store) if "/" not in meta["path"]}
        except OSError as error:
            raise CacheError(f"cannot list {self._address}: {error}") from error
        return dict(sorted(found.items()))

    def is_here(self, name: str) -> bool:
        """Whether the mirror has a copy."""
        return self._mirror.is_here(name)

    def local_path(self, name: str) -> Path:
        """The path of the mirror's copy, fetched if missing; nothing exists there if the bucket has no such file.

        Raises CacheError with the fix if the file cannot be fetched or written.
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
        """Delete a file in the bucket and the mirror; it may already be deleted."""
        import obstore

        try:
            _with_retries(lambda: obstore.delete(self._store, name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise CacheError(f"cannot delete {name} in {self._address}: {error}") from error
        self._mirror.remove(name)

    def describe(self) -> str:
        """The bucket, for messages; without credentials."""
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
    """The store at an address; sends no request yet."""
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
    """Provides keys to obstore, so that it does not combine an entry's keys with the environment's session token."""

    keys: tuple[str, str, str | None]

    def __call__(self) -> "S3Credential":
        access, secret, token = self.keys
        return {"access_key_id": access, "secret_access_key": secret, "token": token, "expires_at": None}

    def __repr__(self) -> str:
        return "<credentials>"


def _objects(store: "S3Store") -> Iterator["ObjectMeta"]:
    """Every object; continues after the last name if a response is interrupted; raises OSError."""
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
    """The result of `ask`, with retries if a response is interrupted; raises OSError, or its FileNotFoundError."""
    patience = _Backoff()
    while True:
        try:
            return ask()
        except Exception as error:
            patience.wait(error)


@dataclass
class _Backoff:
    """Waits longer after each failure in a row, and gives up after RETRIES.

    obstore itself retries requests that fail before the first byte of the response; this handles later failures.
    """

    failures: int = 0

    def wait(self, error: Exception) -> None:
        """Sleep before the next try, or raise OSError with the reason if no try is left or none can succeed."""
        reason = _reason(error)
        if isinstance(error, FileNotFoundError) and not reason.startswith(NO_BUCKET):
            raise error
        final = reason.startswith((REFUSED, NO_BUCKET, NO_ANSWER)) or NO_SUCH_PART in reason
        if final or self.failures == RETRIES:
            raise OSError(reason) from error
        time.sleep(min(FIRST_PAUSE * 2**self.failures, LONGEST_PAUSE).total_seconds())
        self.failures += 1


def _reason(error: Exception) -> str:
    """The reason of a failed request and the fix, without keys."""
    text = str(error)
    lost = "404 Not Found" in text and not isinstance(error, FileNotFoundError)
    if lost or "NoSuchBucket" in text or "InvalidBucketName" in text:
        return f"{NO_BUCKET}. Check aws_bucket_name, aws_endpoint_url and aws_region_name."
    if any(word in text for word in ELSEWHERE):
        return f"{NO_BUCKET} in this region. Check aws_region_name."
    if any(word in text for word in REFUSALS):
        return (
            f"{REFUSED}, or lacks permission. Check aws_access_key_id and aws_secret_access_key "
            "(if not set, the environment's AWS settings), and the bucket's permissions."
        )
    if "error sending request" in text or "169.254." in text or "CredentialProvider" in text:
        return f"{NO_ANSWER}. Check aws_endpoint_url and the network; without keys, that this machine has a role."
    return text.split("\n", 1)[0][:300]
