"""A small hub on this machine: it takes what the real client uploads, and refuses or fails where it is asked to."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

OWNER = "painter"
LARGE_BYTES = 2048
"""From this size on, files go by way of LFS."""


@dataclass
class LoopbackHub:
    """What it holds, and what it was sent.

    refuses: a pattern of `METHOD path` and the status that answers it, as many times as the third says.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    token: str = "hf_" + "TokenOfTheLoopbackHub0123456789"
    refuses: list[list[Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)
    is_gone: bool = False
    held: threading.Event = field(default_factory=threading.Event)
    """Commits wait until it is set."""

    def files(self, name: str) -> dict[str, bytes]:
        return self.repositories[f"{OWNER}/{name}"]

    def refusal(self, request: str) -> int:
        for rule in self.refuses:
            if rule[2] > 0 and re.search(rule[0], request):
                rule[2] -= 1
                return rule[1]
        return 0


class _Answers(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._take()

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _take(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.hub.is_gone:
            self.close_connection = True
            return
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.bodies.append(body)
        status = self.hub.refusal(f"{self.command} {path}")
        if status:
            self._say({"error": "no"}, status=status)
        elif not path.startswith("/objects/") and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._say({"error": "Invalid credentials"}, status=401)
        else:
            self._answer(path, body)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline(), 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def _answer(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/whoami-v2":
            self._say({"name": OWNER, "type": "user", "orgs": [], "auth": {}})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/objects/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            hub.large[found[1]] = body
            self._say({})
        elif path.endswith("/info/lfs/objects/batch"):
            self._say({"transfer": "basic", "objects": [self._object(each) for each in json.loads(body)["objects"]]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+))?(?:/.*)?", path):
            self._in_repository(found[1], what=found[2] or "", body=body)
        else:
            self._say({"error": "Not found"}, status=404)

    def _create(self, said: dict[str, Any]) -> None:
        name = f"{said['organization'] or OWNER}/{said['name']}"
        if not name.startswith(f"{OWNER}/"):
            self._say({"error": "no rights in that namespace"}, status=403)
        elif name in self.hub.repositories:
            self._say({"error": "already created", "url": f"{self.hub.url}/{name}"}, status=409)
        else:
            self.hub.repositories[name] = {}
            self.hub.private[name] = said.get("visibility") == "private" or bool(said.get("private"))
            self._say({"url": f"{self.hub.url}/{name}", "name": name})

    def _object(self, said: dict[str, Any]) -> dict[str, Any]:
        plain = {"oid": said["oid"], "size": said["size"]}
        if said["oid"] in self.hub.large:
            return plain
        return plain | {"actions": {"upload": {"href": f"{self.hub.url}/objects/{said['oid']}", "header": {}}}}

    def _in_repository(self, name: str, *, what: str, body: bytes) -> None:
        files = self.hub.repositories.get(name)
        if files is None:
            self._say({"error": "Repository not found"}, status=404)
        elif what == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] >= LARGE_BYTES else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            self._say({"files": modes})
        elif what == "commit":
            self.hub.held.wait(30)
            self._commit(name, lines=[json.loads(line) for line in body.splitlines()])
        elif what == "tree":
            self._say([_entry(path, content) for path, content in sorted(files.items())])
        else:
            self._say({"id": name, "private": self.hub.private[name], "sha": "a" * 40, "siblings": []})

    def _commit(self, name: str, *, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repositories[name]
        for line in lines:
            said = line["value"]
            match line["key"]:
                case "header":
                    self.hub.commits.append(said["summary"])
                case "file":
                    files[said["path"]] = base64.b64decode(said["content"])
                case "lfsFile":
                    files[said["path"]] = self.hub.large[said["oid"]]
        self._say({"commitUrl": f"{self.hub.url}/{name}/commit/{'b' * 40}", "commitOid": "b" * 40, "success": True})

    def _say(self, said: Any, *, status: int = 200) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if len(content) >= LARGE_BYTES:
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        entry |= {"oid": "c" * 40, "lfs": large}
    return entry


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A hub that is up within the block."""
    hub = LoopbackHub()
    hub.held.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.is_gone = True
        hub.held.set()
        server.shutdown()
        server.server_close()
        thread.join()
