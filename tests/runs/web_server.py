"""A real web server on this machine that serves images, and misbehaves where it is asked to."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HUGE_BYTES = 1 << 20


class Site(ThreadingHTTPServer):
    """Serves `files` by path; `asked` counts requests. slow_seconds: what /slow waits between two bytes."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], *, slow_seconds: float = 0.2) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files = dict(files)
        self.slow_seconds = slow_seconds
        self.asked: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.headers_seen: list[Mapping[str, str]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested."""


class _Answers(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site, path = self.server, self.path.partition("?")[0]
        with site.lock:
            site.asked[path] += 1
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
            site.headers_seen.append(dict(self.headers))
        try:
            misbehave = getattr(self, f"_{path.strip('/').partition('/')[0]}", None)
            if misbehave is not None:
                misbehave()
            elif path in site.files:
                self._whole(site.files[path])
            else:
                self._status(404)
        finally:
            with site.lock:
                site.at_once -= 1

    def _whole(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def _status(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _gone(self) -> None:
        self._status(410)

    def _busy(self) -> None:
        """Too much is asked for, the first two times."""
        if self.server.asked["/busy"] <= 2:
            self._status(503)
        else:
            self._whole(next(iter(self.server.files.values())))

    def _slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x")
            time.sleep(self.server.slow_seconds)

    def _lazy(self) -> None:
        """Well behaved, and takes its time."""
        time.sleep(self.server.slow_seconds)
        self._whole(next(iter(self.server.files.values())) + self.path.encode())

    def _huge(self) -> None:
        self._whole(bytes(HUGE_BYTES))

    def _endless(self) -> None:
        """Never says how much there is."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    def _cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    def _loop(self) -> None:
        self._status(302, Location="/loop")

    def _moved(self) -> None:
        self._status(301, Location=next(iter(self.server.files)))

    def _astray(self) -> None:
        self._status(302, Location="file:///etc/passwd")

    def _packed(self) -> None:
        self._whole(b"\x1f\x8b", Content_Encoding="gzip")

    def _page(self) -> None:
        self._whole(b"<html>this image is gone</html>", Content_Type="text/html")


@contextmanager
def serving(files: Mapping[str, bytes], *, slow_seconds: float = 0.2) -> Iterator[Site]:
    """A site that is up within the block."""
    site = Site(files, slow_seconds=slow_seconds)
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield site
    finally:
        site.shutdown()
        site.server_close()
        thread.join()
