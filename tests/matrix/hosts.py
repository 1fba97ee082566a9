"""Where servers are started from: a plain Python, and all that Jupyter has."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

READY = 90.0  # seconds for Jupyter to be there
ENDED = 30.0  # seconds for it to be gone


class Host:
    """A process that starts servers. `pid` is known once it has said so to the stage.

    Args:
        folder: private, for files of its own.
        env: its environment.
    """

    in_ipython = True

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        self.env = dict(env)
        self.pid = 0

    def start(self, code: str) -> None:
        """Run the code; returns at once."""
        raise NotImplementedError

    def close(self) -> None:
        """End what is not the host itself."""

    def run(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        """Start a process in a session of its own, whose output goes to a file."""
        with open(self.folder / "output", "ab") as output:
            return subprocess.Popen(
                command,
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **more,
            )


class Script(Host):
    """A plain Python."""

    in_ipython = False

    def start(self, code: str) -> None:
        self.process = self.run([sys.executable, "-c", code])

    def close(self) -> None:
        self.process.kill()
        self.process.wait(ENDED)


class Nohup(Script):
    """``nohup python ... &`` from a shell, which ignores SIGINT and SIGHUP, and so would its children."""

    def start(self, code: str) -> None:
        self.process = self.run(["sh", "-c", 'nohup "$@" & wait', "sh", sys.executable, "-c", code])


class Kernel(Host):
    """ipykernel under jupyter_client's KernelManager."""

    def start(self, code: str) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3", transport_encryption="auto")
        self.output = open(self.folder / "output", "ab")  # noqa: SIM115 - a restart writes there too
        self.manager.start_kernel(env=self.env, cwd=str(self.folder), stdout=self.output, stderr=self.output)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.execute(code)  # waits in the channel until the kernel is there

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.output.close()


class JupyterServer(Host):
    """A kernel of a real Jupyter server, which is spoken to over its REST API."""

    def start(self, code: str) -> None:
        from jupyter_client.blocking import BlockingKernelClient

        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}/api/kernels"
        runtime = self.folder / "runtime"
        self.env["JUPYTER_RUNTIME_DIR"] = str(runtime)
        options = ["--no-browser", "--allow-root", f"--ServerApp.port={port}", "--IdentityProvider.token=t"]
        self.server = self.run([sys.executable, "-m", "jupyter_server", *options])
        self._await()
        kernel = self.ask("POST", self.url, {"name": "python3"})
        self.kernel_url = f"{self.url}/{kernel['id']}"
        self.client = BlockingKernelClient(connection_file=str(runtime / f"kernel-{kernel['id']}.json"))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.execute(code)  # waits in the channel until the kernel is there

    def ask(self, method: str, url: str, content: dict[str, str] | None = None) -> Any:
        """One request; its JSON."""
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(url, data, {"Authorization": "token t"}, method=method)
        with urllib.request.urlopen(request, timeout=READY) as answer:
            return json.loads(answer.read() or b"null")

    def _await(self) -> None:
        pause = threading.Event()
        for _ in range(int(READY / 0.1)):
            with contextlib.suppress(OSError):
                self.ask("GET", self.url)
                return
            assert self.server.poll() is None, (self.folder / "output").read_text()
            pause.wait(0.1)
        raise TimeoutError("the Jupyter server does not answer")

    def close(self) -> None:
        self.client.stop_channels()
        self.server.kill()
        self.server.wait(ENDED)


class Notebook(Host):
    """A notebook of one cell that another program runs."""

    def start(self, code: str) -> None:
        import nbformat

        cell = nbformat.v4.new_code_cell(code)
        self.path = self.folder / "notebook.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), self.path)
        self.process = self.run([sys.executable, *self.program()])

    def program(self) -> list[str]:
        """Arguments for Python."""
        raise NotImplementedError

    def close(self) -> None:
        self.process.kill()
        self.process.wait(ENDED)


class NbClient(Notebook):
    """nbclient's ``NotebookClient.execute``."""

    def program(self) -> list[str]:
        code = (
            "import sys, nbclient, nbformat; "
            "nbclient.NotebookClient(nbformat.read(sys.argv[1], as_version=4), kernel_name='python3').execute()"
        )
        return ["-c", code, str(self.path)]


class NbConvert(Notebook):
    """``jupyter nbconvert --execute``."""

    def program(self) -> list[str]:
        return ["-m", "nbconvert", "--to", "notebook", "--execute", "--output", "done", str(self.path)]


class Terminal(Host):
    """``ipython`` in a terminal."""

    _end: int | None

    def start(self, code: str) -> None:
        from ptyprocess import PtyProcess

        script = self.folder / "host.ipy"
        script.write_text(code)
        options = ["--no-banner", "--no-confirm-exit", "--simple-prompt", "-i", str(script)]
        self.terminal = PtyProcess.spawn(
            [sys.executable, "-m", "IPython", *options], cwd=str(self.folder), env=self.env
        )
        self._over, self._end = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Keep the terminal's buffer from filling up."""
        poller = select.poll()
        for fd in (self.terminal.fd, self._over):
            poller.register(fd, select.POLLIN)
        with (
            open(self.folder / "output", "ab", buffering=0) as output,
            contextlib.suppress(EOFError, OSError),
        ):
            while self._over not in [fd for fd, _ in poller.poll()]:
                output.write(self.terminal.read())

    def hang_up(self) -> None:
        """Close the terminal; not while it is being read, which would keep it open."""
        if self._end is not None:
            os.close(self._end)
            self._end = None
            self._reader.join(ENDED)
            os.close(self._over)
            self.terminal.fileobj.close()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.terminal.pid, signal.SIGKILL)
        self.hang_up()
        self.terminal.close(force=True)
