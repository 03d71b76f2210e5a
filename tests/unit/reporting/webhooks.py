"""A loopback server that receives webhook messages and sends prepared answers."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET_PATH = "/api/webhooks/1234567890/ThisIsTheSecretToken-0123456789"


@dataclass
class Clock:
    """Stands in for the `time` module: sleeping takes no time and moves `now`, in seconds."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0, "as `time.sleep` has it"
        self.now += seconds


@dataclass
class Heard:
    """A request that came. at: in seconds of the server's clock. files: attached, by name."""

    at: float
    payload: dict[str, Any]
    body: bytes
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Answer:
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after_seconds: float = 0.0


@dataclass
class LoopbackWebhook:
    """answers: those of the first requests; later ones get the last of them.

    answered: how many requests have their answer. hangs: set while a request waits for `released`.
    """

    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    heard: list[Heard] = field(default_factory=list)
    url: str = ""
    answered: int = 0
    hangs: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    now: Callable[[], float] = time.monotonic

    @property
    def payloads(self) -> list[dict[str, Any]]:
        return [each.payload for each in self.heard]

    def take(self, body: bytes, *, content_type: str) -> Answer:
        files: dict[str, bytes] = {}
        if content_type.startswith("multipart/"):
            parts = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
            payload: dict[str, Any] = {}
            for part in parts.walk():
                disposition = part.get("Content-Disposition", "")
                content = part.get_payload(decode=True)
                if 'name="payload_json"' in disposition:
                    payload = json.loads(content)  # type: ignore[arg-type]
                elif name := re.search(r'filename="([^"]+)"', disposition):
                    files[name[1]] = content  # type: ignore[assignment]
        else:
            payload = json.loads(body)
        self.heard.append(Heard(at=self.now(), payload=payload, body=body, files=files))
        return self.answers[min(len(self.heard), len(self.answers)) - 1]


@contextmanager
def loopback_webhook(*answers: Answer, now: Callable[[], float] = time.monotonic) -> Iterator[LoopbackWebhook]:
    webhook = LoopbackWebhook(answers=list(answers) or [Answer()], now=now)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = webhook.take(body, content_type=self.headers["Content-Type"])
            if answer.after_seconds:
                webhook.hangs.set()
                webhook.released.wait(answer.after_seconds)
            webhook.answered += 1
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    webhook.url = f"http://127.0.0.1:{server.server_port}{SECRET_PATH}"
    try:
        yield webhook
    finally:
        webhook.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
