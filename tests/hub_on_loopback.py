"""The Hugging Face Hub as far as `fit` asks it, on the loopback address: files of a folder, whole and in parts."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MOST = 10**6  # bytes of one answer; who asks for more has not asked for a header only


class Hub:
    """Serves the models below `folder`: "some/model" is `folder/some/model`.

    Attributes:
        url: for HF_ENDPOINT.
        requests: how many there were.
        sent: bytes of files.
        revision: the only one that it has.
        token: the one that it wants; "" for none.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.requests = self.sent = 0
        self.revision, self.token = "main", ""
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self._open = True

    def __enter__(self) -> Hub:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer nobody any more."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def count(self, sent: int) -> None:
        with self._lock:
            self.requests += 1
            self.sent += sent


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        hub = self.served
        if hub.token and self.headers["Authorization"] != f"Bearer {hub.token}":
            self._refuse(401, "GatedRepo")
        elif parts[:2] == ["api", "models"]:
            self._tell(parts[2:])
        elif len(parts) == 5 and parts[2] == "resolve" and parts[3] in (hub.revision, COMMIT):
            path = hub.folder / parts[0] / parts[1] / parts[4]
            if path.parent.is_dir() and path.exists():
                self._send(path, with_body=with_body)
            else:
                self._refuse(404, "EntryNotFound" if path.parent.is_dir() else "RepoNotFound")
        else:
            self._refuse(404, "RevisionNotFound")

    def _tell(self, parts: list[str]) -> None:
        folder = self.served.folder.joinpath(*parts[:2])
        if not folder.is_dir():
            self._refuse(404, "RepoNotFound")
            return
        files = [{"rfilename": one.name, "size": one.stat().st_size} for one in sorted(folder.iterdir())]
        told = {"id": "/".join(parts[:2]), "modelId": "/".join(parts[:2]), "sha": COMMIT, "siblings": files}
        self._reply(
            200, json.dumps({**told, "tags": [], "downloads": 0, "likes": 0, "private": False}).encode()
        )

    def _send(self, path: Path, *, with_body: bool) -> None:
        size = path.stat().st_size
        begin, end, status = 0, size - 1, 200
        if asked := self.headers["Range"]:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(int(last), size - 1), 206
        body = b""
        if with_body:
            assert end - begin < MOST, f"{path.name} is asked for from {begin} to {end}"
            with path.open("rb") as file:
                file.seek(begin)
                body = file.read(end - begin + 1)
        self._reply(
            status, body, etag=hashlib.sha256(path.name.encode()).hexdigest(), length=max(0, end - begin + 1)
        )

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
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
