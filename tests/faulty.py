"""A proxy on this machine that spoils a share of the answers, for tests of patience."""

import http.client
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_SECONDS = 0.05
FAULTS = ("error", "throttled", "cut", "dropped")


@contextmanager
def faulty_proxy(
    endpoint: str, *, every: int | None, at_once: list[int] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """A proxy's address in front of `endpoint`, and the list of faults it made: one in each `every` requests.

    In turn: an internal error, a request to slow down, an answer cut off half-way, a connection dropped unanswered.
    at_once: is told at each request how many wait for their answer; each waits a little longer.
    """
    target = urlsplit(endpoint)
    made: list[str] = []
    busy: list[None] = []
    numbers, turn = itertools.count(1), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def handle_any(self) -> None:
            if at_once is not None:
                # Before the answer: a client with one connection cannot ask again until it has that.
                busy.append(None)
                at_once.append(len(busy))
                time.sleep(SLOW_SECONDS)
                busy.pop()
            self.answer_any()

        def answer_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with turn:
                fault = FAULTS[len(made) % len(FAULTS)] if every and next(numbers) % every == 0 else None
                if fault:
                    made.append(fault)
            if fault == "dropped":
                self.close_connection = True
                return
            if fault in ("error", "throttled"):
                self.answer(500 if fault == "error" else 503, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
            connection = http.client.HTTPConnection(target.hostname or "", target.port)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.answer(answer.status, dict(answer.getheaders()), content, cut=fault == "cut")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
