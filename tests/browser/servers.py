"""Jupyter servers of the tests' own: every folder a temporary one, nothing from outside, a token."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
LIMIT = 120.0  # seconds that a server may take to start on a busy machine, or to end
# The kernels that a notebook can have, and what they need in their environment.
KERNELS = {"ipykernel": {}, "ipykernel6": {"PYTHONPATH": str(Path(sys.prefix) / "ipykernel6")}}
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    # In ms; the usual second is short on a busy machine.
    "@jupyterlab/completer-extension/manager": {"providerTimeout": 60_000},
}


class JupyterServer:
    """JupyterLab or Notebook 7, on a free port.

    Args:
        app: "lab" or "notebook".
        folder: for its notebooks and all of its own files.

    Attributes:
        url: of its root, without a slash at the end.
        token: what it asks for.
    """

    def __init__(self, app: str, folder: Path) -> None:
        self.app = app
        self.folder = folder
        self.token = secrets.token_hex(16)
        self._numbers = itertools.count(1)
        self._before = dict(os.environ)
        self._log = folder / "server.log"
        self._process = self._start()
        self.url = f"http://127.0.0.1:{self._port()}"

    def write(self, cells: list[str], kernel: str) -> str:
        """Write a new notebook and return its URL; its kernel gets what the test has set since the server started."""
        name = f"test{next(self._numbers)}.ipynb"
        changed = {key: value for key, value in os.environ.items() if self._before.get(key) != value}
        _write_json(
            self.folder / "data/kernels" / kernel / "kernel.json",
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": kernel,
                "language": "python",
                "env": {**changed, **KERNELS[kernel]},
            },
        )
        plain = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        made = [{**plain, "id": f"cell-{index}", "source": source} for index, source in enumerate(cells)]
        spec = {"name": kernel, "display_name": kernel, "language": "python"}
        _write_json(
            self.folder / "notebooks" / name,
            {"cells": made, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5},
        )
        path = f"lab/tree/{name}?reset&" if self.app == "lab" else f"notebooks/{name}?"
        return f"{self.url}/{path}token={self.token}"

    def write_settings(self) -> None:
        """Have the settings of the tests, whatever one of them changed."""
        for plugin, settings in SETTINGS.items():
            _write_json(self.folder / "settings" / f"{plugin}.jupyterlab-settings", settings)
        (self.folder / "settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings").unlink(
            missing_ok=True
        )

    def end_kernels(self) -> None:
        """Shut every kernel down; they are gone when this returns."""
        for session in json.loads(self.ask("api/sessions")):
            self.ask(f"api/sessions/{session['id']}", method="DELETE")

    def ask(self, path: str, method: str = "GET") -> str:
        """Return the answer of its REST API."""
        request = urllib.request.Request(f"{self.url}/{path}", method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return answer.read().decode()

    def close(self) -> None:
        """End it.

        Raises:
            AssertionError: a process of it stayed; it is killed.
        """
        everyone = [self._process, *psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        _, left = psutil.wait_procs(everyone, timeout=LIMIT)
        for process in left:
            process.kill()
        assert self._process.wait(LIMIT) is not None
        assert not left, left

    def _start(self) -> subprocess.Popen[bytes]:
        self.write_settings()
        (self.folder / "notebooks").mkdir()
        own = {
            "HOME": "home",
            "IPYTHONDIR": "ipython",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        }
        folders = {name: str(self.folder / folder) for name, folder in own.items()}
        (self.folder / "home").mkdir()
        command = [
            *(sys.executable, "-m", "jupyterlab" if self.app == "lab" else "notebook"),
            *("--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1"),
            *("--ServerApp.port=0", f"--IdentityProvider.token={self.token}"),
            f"--ServerApp.root_dir={self.folder / 'notebooks'}",
        ]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **folders},
                cwd=self.folder,
            )

    def _port(self) -> int:
        deadline = time.monotonic() + LIMIT
        told = self.folder / "runtime" / f"jpserver-{self._process.pid}.json"
        while time.monotonic() < deadline and self._process.poll() is None:
            if told.exists() and (text := told.read_text()).endswith("}"):
                return int(json.loads(text)["port"])
            time.sleep(0.05)
        self._process.kill()
        raise RuntimeError(f"{self.app} did not start:\n{self._log.read_text()}")


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
