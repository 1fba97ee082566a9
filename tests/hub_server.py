"""A Hugging Face Hub on this machine: one model's files with their metadata, as huggingface_hub asks for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: str
    files: dict[str, bytes]
    status: int
    error: str
    gate: threading.Event

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.status != 200:
            self._send(self.status, b'{"error": "no"}', {"X-Error-Code": self.error})
        elif path.startswith(f"/api/models/{self.model}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0"}
                for name, content in self.files.items()
            ]
            self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/api/models/{self.model}"):
            siblings = [{"rfilename": name, "size": len(content)} for name, content in self.files.items()]
            card = {
                "id": self.model,
                "sha": COMMIT,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            self._send(200, json.dumps(card).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/{self.model}/resolve/"):
            self._send_file(path.removeprefix(f"/{self.model}/resolve/").partition("/")[2])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - so it is called by http.server

    def _send_file(self, name: str) -> None:
        content = self.files.get(name)
        if content is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        self._send(206 if begin else 200, content[begin:], headers, slow=name.endswith(".safetensors"))

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, slow: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        with contextlib.suppress(OSError):  # who was interrupted has hung up
            self.wfile.write(body[:half])
            if slow:
                self.gate.wait(60)
            self.wfile.write(body[half:])

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serve(
    model: str,
    files: dict[str, bytes],
    status: int = 200,
    error: str = "",
    gate: threading.Event | None = None,
) -> Iterator[str]:
    """Serve it, and give the address; the second half of weights comes once the gate is open."""
    opened = threading.Event()
    opened.set()
    given = {"model": model, "files": files, "status": status, "error": error, "gate": gate or opened}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), given))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        (gate or opened).set()
        server.shutdown()
        thread.join()
        server.server_close()
