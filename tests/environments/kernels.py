"""A kernel in an environment, driven over the Jupyter protocol as a front end does."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from environments.catalog import Environment

LIMIT = 240.0  # seconds for a cell; nothing takes this long unless it fails
STAND_INS = Path(__file__).parent / "stand_ins"
WIDGET = "application/vnd.jupyter.widget-view+json"
# As Colab starts its kernels.
COLAB_FLAGS = (
    "--IPKernelApp.kernel_class=google.colab._kernel.Kernel",
    "--IPKernelApp.extensions=['google.colab']",
)


@dataclass
class Ran:
    """What a cell put out.

    Attributes:
        text: the streams, and the results as plain text.
        error: the name and the text of its exception; "" for none.
        bundles: the data and the metadata of each displayed or returned object.
    """

    text: str = ""
    error: str = ""
    bundles: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)


class Kernel:
    """A running kernel.

    Attributes:
        environment: its environment.
        manager: of jupyter_client.
    """

    def __init__(self, environment: Environment, manager: KernelManager) -> None:
        self.environment = environment
        self.manager = manager
        self._client = manager.client()
        self._client.start_channels()

    def wait(self) -> None:
        """Wait until it answers."""
        self._client.wait_for_ready(timeout=LIMIT)

    @property
    def pid(self) -> int:
        """Its pid."""
        pid: int = self.manager.provisioner.pid  # type: ignore[union-attr]
        return pid

    def run(self, code: str, *, fails: bool = False) -> Ran:
        """Run a cell, and return what it put out; an exception in it is an error unless it `fails`."""
        ran = Ran()

        def keep(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                ran.text += content["text"]
            elif message["msg_type"] in ("display_data", "execute_result", "update_display_data"):
                ran.bundles.append((content["data"], content["metadata"]))
                ran.text += content["data"].get("text/plain", "") + "\n"
            elif message["msg_type"] == "error":
                ran.error = f"{content['ename']}: {content['evalue']}"

        self._client.execute_interactive(code, output_hook=keep, timeout=LIMIT, allow_stdin=False)
        assert fails or not ran.error, (code, ran.error, ran.text)
        return ran

    def complete(self, code: str) -> list[str]:
        """Return the whole lines that completion offers at the end of this line."""
        content = self._client.complete(code, reply=True, timeout=LIMIT)["content"]
        return [code[: content["cursor_start"]] + match for match in content["matches"]]

    def restart(self) -> None:
        """Restart it as the button of a front end does, and wait for the new one."""
        self.manager.restart_kernel()
        self.wait()

    def kill(self) -> None:
        """End it with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, if it still runs."""
        self._client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel(now=True)


@contextmanager
def kernel(environment: Environment, folder: Path) -> Iterator[Kernel]:
    """Run a kernel of this environment until the block ends; its files are in `folder`."""
    manager = KernelManager(connection_file=str(folder / "kernel.json"))
    flags = COLAB_FLAGS if environment.hosted == "colab" else ()
    manager._kernel_spec = KernelSpec(
        argv=[str(environment.python), "-m", "ipykernel_launcher", "-f", "{connection_file}", *flags]
    )
    manager.start_kernel(env=variables(environment), cwd=str(folder))
    running = Kernel(environment, manager)
    try:
        running.wait()
        yield running
    finally:
        running.close()


def variables(environment: Environment) -> dict[str, str]:
    """Return what a kernel of this environment has in its environment, with the modules of its hosted service."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if environment.hosted:
        found["PYTHONPATH"] = os.environ.get("GOOGLE_COLAB", str(STAND_INS / environment.hosted))
    if environment.hosted == "kaggle":
        found["KAGGLE_USER_SECRETS_TOKEN"] = "a-token-of-kaggle"
    return found
