"""A Hugging Face Hub on the loopback address, for huggingface_hub: it serves the models of a folder, whole and in parts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from loopback_server import LoopbackServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATE_LIMIT = 60.0  # seconds


class Hub(LoopbackServer):
    """Serves the models below `folder`: "some/model" is `folder/some/model`.

    Attributes:
        url: the URL, for HF_ENDPOINT.
        requests: the number of requests so far.
        sent: the bytes of answers that were sent so far.
        revision: the only revision of each model, besides `COMMIT`.
        token: the token that the Hub requires; "" for none.
        refusal: the status and the error code of each answer, where the Hub refuses everything; else None.
        most: the bytes that one request may ask for at most; a client that needs only a header asks for no more.
        gate: an event; the second half of each file of weights is sent when it is set, as it is at first.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.requests = self.sent = 0
        self.revision, self.token = "main", ""
        self.refusal: tuple[int, str] | None = None
        self.most = sys.maxsize
        self._lock = threading.Lock()
        super().__init__(_Handler)
        self.url = f"http://{self.address}"

    def count(self, sent: int) -> None:
        with self._lock:
            self.requests += 1
            self.sent += sent


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        hub = self.served
        if hub.refusal:
            self._refuse(*hub.refusal)
        elif hub.token and self.headers["Authorization"] != f"Bearer {hub.token}":
            self._refuse(401, "GatedRepo")
        elif parts[:2] == ["api", "models"]:
            self._tell("/".join(parts[2:4]), tree=parts[4:5] == ["tree"])
        elif len(parts) >= 5 and parts[2] == "resolve" and parts[3] in (hub.revision, COMMIT):
            model = hub.folder.joinpath(*parts[:2])
            path = model.joinpath(*parts[4:])
            if path.is_file():
                self._send(path)
            else:
                self._refuse(404, "EntryNotFound" if model.is_dir() else "RepoNotFound")
        else:
            self._refuse(404, "RevisionNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _tell(self, model: str, *, tree: bool) -> None:
        folder = self.served.folder / model
        if not folder.is_dir():
            self._refuse(404, "RepoNotFound")
            return
        sizes = {
            str(one.relative_to(folder)): one.stat().st_size
            for one in sorted(folder.rglob("*"))
            if one.is_file()
        }
        card = {"id": model, "modelId": model, "sha": COMMIT, "private": False, "tags": [], "downloads": 0}
        card["siblings"] = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        files = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in sizes.items()]
        self._reply(200, json.dumps(files if tree else card).encode())

    def _send(self, path: Path) -> None:
        size = path.stat().st_size
        begin, end, status = 0, size - 1, 200
        if asked := self.headers["Range"]:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(int(last or end), end), 206
        body = b""
        if self.command == "GET":
            assert end - begin < self.served.most, f"{path.name} is asked for from {begin} to {end}"
            with path.open("rb") as file:
                file.seek(begin)
                body = file.read(end - begin + 1)
        etag = hashlib.sha256(str(path).encode()).hexdigest()
        self._reply(status, body, etag=etag, length=max(0, end - begin + 1))

    def _refuse(self, status: int, code: str) -> None:
        self._reply(status, b"", code=code)

    def _reply(
        self, status: int, body: bytes, etag: str = "", code: str = "", length: int | None = None
    ) -> None:
        self.served.count(len(body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("X-Repo-Commit", COMMIT)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        with contextlib.suppress(OSError):  # a client that was interrupted has closed the connection
            self.wfile.write(body[:half])
            if self.path.endswith(".safetensors"):
                self.served.gate.wait(GATE_LIMIT)
            self.wfile.write(body[half:])

    def log_message(self, *_: object) -> None:
        pass
