"""A server on this machine that answers as the Hugging Face hub does, from a folder, and counts what it is asked."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REVISION = "0123456789" * 4
PATHS = re.compile(
    r"(/api)?(/datasets|/models)?/(?P<repository>[^/]+/[^/]+)/(tree|resolve)/(?P<revision>[^/?]+)/?(?P<file>.*)"
)


class FakeHub(ThreadingHTTPServer):
    """Serves `folder`/OWNER/NAME/... at revision REVISION.

    Attributes:
        gets: names of the files that were sent, in order.
        gated: repositories that need a login.
        slow: names of files that are sent a kB at a time, so that a test can kill who fetches them.
        cut: names of files whose first answer ends in the middle.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.gets, self.requests = folder, [], 0
        self.gated: set[str] = set()
        self.slow: set[str] = set()
        self.cut: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to take this for the hub; the cache is another matter."""
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}


class Handler(BaseHTTPRequestHandler):
    """One request: a list of files, or a file's head or content."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(content=False)

    def do_GET(self) -> None:
        self._answer(content=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: bool) -> None:
        self.server.requests += 1
        parts = PATHS.match(self.path)
        if not parts or not (self.server.folder / parts["repository"]).is_dir():
            return self._refuse(401, "RepoNotFound")
        if parts["revision"] != REVISION:
            return self._refuse(404, "RevisionNotFound")
        repository = self.server.folder / parts["repository"]
        if "/tree/" in self.path:
            listed = [_entry(repository, file) for file in sorted(repository.rglob("*")) if file.is_file()]
            return self._send(json.dumps(listed).encode(), {}, content)
        if parts["repository"] in self.server.gated:
            return self._refuse(403, "GatedRepo")
        file = repository / parts["file"]
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        if content:
            self.server.gets.append(parts["file"])
        self._send(file.read_bytes(), {"ETag": f'"{_sha(file)}"', "X-Repo-Commit": REVISION}, content, parts["file"])

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"", {"X-Error-Code": code, "X-Error-Message": code}, False, status=status)

    def _send(self, body: bytes, headers: dict[str, str], content: bool, name: str = "", status: int = 200) -> None:
        first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if first else status)
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        headers |= {"Content-Length": str(len(body) - first), "Content-Type": "application/json"}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if not content:
            return
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.wfile.write(body[first : first + len(body) // 2])
            self.close_connection = True
        elif name in self.server.slow:
            for start in range(first, len(body), 1000):
                self.wfile.write(body[start : start + 1000])
                time.sleep(0.05)
        else:
            self.wfile.write(body[first:])


def _entry(repository: Path, file: Path) -> dict[str, Any]:
    name = file.relative_to(repository).as_posix()
    return {"type": "file", "path": name, "size": file.stat().st_size, "oid": _sha(file)[:40]}


def _sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    """Serve `folder` until the context ends."""
    hub = FakeHub(folder)
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
