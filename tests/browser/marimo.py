"""marimo, in an environment without Jupyter: the editor of a notebook, or an app for visitors."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from .servers import LIMIT, ROOT

SESSION_TTL = 1  # seconds after which marimo ends the session of a page that was closed
# The environment that the Makefile makes; else a marimo that is installed.
PATH = os.pathsep.join((str(Path(sys.prefix) / "marimo/bin"), os.environ["PATH"]))


class Marimo:
    """marimo with one notebook, on a free port.

    Args:
        mode: "edit" or "run".
        notebook: its file.
        folder: for marimo's own files; it does not exist yet.

    Attributes:
        url: the address of the notebook.
    """

    def __init__(self, mode: str, notebook: Path, folder: Path) -> None:
        executable = shutil.which("marimo", path=PATH)
        if executable is None:
            raise FileNotFoundError("marimo is missing: make environments")
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "marimo.log"
        folder.mkdir()
        command = [
            *(executable, mode, str(notebook), "--headless", "--no-token", f"--port={port}"),
            *([f"--session-ttl={SESSION_TTL}"] if mode == "run" else []),
        ]
        environ = {
            **os.environ,
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "MARIMO_SKIP_UPDATE_CHECK": "1",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd=folder
            )
        self._wait(port)

    def close(self) -> None:
        """End it, and its kernels with it."""
        self._process.terminate()
        try:
            self._process.wait(LIMIT)
        finally:
            self._process.kill()

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        self._process.kill()
        raise RuntimeError(f"marimo did not start:\n{self._log.read_text()}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
