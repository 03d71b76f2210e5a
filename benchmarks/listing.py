"""How fast a bucket's names are listed beside bare requests to the same server: `python -m benchmarks.listing`.

The server is a process on this machine that answers with pages made beforehand: what is measured is what listing costs
besides the server. A real one makes its pages first.
"""

import argparse
import multiprocessing
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from urllib.parse import parse_qs, quote, urlsplit

import obstore
from obstore.store import S3Store

from helpers.data.catalog.scan import find_files
from helpers.storage.s3 import BucketAddress, BucketSource

PAGE = 1_000
ROUNDS = 3
ENTRY = (
    "<Contents><Key>{name}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
    "<ETag>&quot;{number:032x}&quot;</ETag><Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def name_of(number: int) -> str:
    """The name of one of the images."""
    return f"set/{number // 5_000:04}/image {number:08}.jpg"


def page(first: int, count: int) -> bytes:
    """The answer that begins with an image's number."""
    last = min(first + PAGE, count)
    entries = "".join(
        ENTRY.format(name=name_of(number), number=number, size=100_000 + number) for number in range(first, last)
    )
    more = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < count else ""
    head = '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    truncated = f"<IsTruncated>{str(last < count).lower()}</IsTruncated>{more}"
    return f"{head}<Name>b</Name><KeyCount>{last - first}</KeyCount>{truncated}{entries}</ListBucketResult>".encode()


def serve(count: int, told: Connection) -> None:
    """Answer listings for ever; the port goes to `told`."""
    pages = {first: page(first, count) for first in range(0, count, PAGE)}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # the headers and the page in one piece

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            content = pages[int(asked.get("continuation-token", ["0"])[0])]
            self.send_response(200)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.send(server.server_port)
    server.serve_forever()


def bare_requests(endpoint: str, count: int) -> int:
    """Every page fetched and thrown away: what the server alone costs."""
    for first in range(0, count, PAGE):
        with urllib.request.urlopen(f"{endpoint}/b?list-type=2&continuation-token={quote(str(first))}") as answer:
            answer.read()
    return count


def bare_obstore(endpoint: str, count: int) -> int:
    """What anyone would write with the library."""
    store = S3Store(
        "b", endpoint=endpoint, access_key_id="a", secret_access_key="b", client_options={"allow_http": True}
    )
    return sum(len(chunk) for chunk in obstore.list(store, chunk_size=PAGE))


def source(endpoint: str) -> BucketSource:
    """Ours."""
    return BucketSource(BucketAddress(bucket="b", endpoint=endpoint, credentials=("a", "b", None)))


def ours(endpoint: str, count: int) -> int:
    """Names, sizes and tags, in order."""
    return sum(1 for _ in source(endpoint).list())


def ours_by_column(endpoint: str, count: int) -> int:
    """The same as a dataset's files: by column, with what stands for each."""
    return len(find_files(source(endpoint), want_notes=False).paths)


def seconds(work: Callable[[str, int], int], endpoint: str, count: int) -> float:
    """The shortest of a few times."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        assert work(endpoint, count) == count
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    count = parser.parse_args().keys
    told, telling = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(count, telling), daemon=True)
    server.start()
    endpoint = f"http://127.0.0.1:{told.recv()}"
    try:
        print(f"{count} names, pages of {PAGE}\n\n{'':32}{'seconds':>9}{'names/s':>11}")
        for work in (bare_requests, bare_obstore, ours, ours_by_column):
            taken = seconds(work, endpoint, count)
            print(f"{work.__name__.replace('_', ' '):32}{taken:9.2f}{count / taken:11,.0f}")
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
