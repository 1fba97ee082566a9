"""A server as users hold it: its status, its requests, and its stop."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic import arguments
from vllm_magic.children import benchmark
from vllm_magic.engine.client import lora, metrics
from vllm_magic.engine.client.connection import SILENCE_LIMIT
from vllm_magic.engine.client.requests import RequestMethods
from vllm_magic.engine.flags import flags
from vllm_magic.engine.startup import log
from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.linux import home
from vllm_magic.server import members
from vllm_magic.server.run import ServerRun

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from vllm_magic.engine.client.metrics import Metrics
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.engine.startup.stages import Progress
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.linux.processes import Process
    from vllm_magic.plotting.plot import Plot
    from vllm_magic.provisioning.base import Provisioner, StartKind
    from vllm_magic.release.result import Release
    from vllm_magic.server.sleep_mode import SleepResult
    from vllm_magic.server.status import ServerStatus

__all__ = ["Server", "ServerState", "run_of"]

ADAPTER = "the name of an adapter, as text"


class Server(RequestMethods):
    """A vLLM server of this kernel. Safe to use from any thread. `manager.Manager` makes the servers.

    While the server is ready, it answers requests (`chat`, `complete`, `embed`, ..., `client`). At any other time these methods
    raise `RequestFailed`.

    Args:
        spec: the spec with which the server is started.
        provisioner: makes the server.
        probe: reads the GPUs.
        news: called, in a thread of the server, with each line that the user should see.
        changed: called with the server's run after each change in its life, in the thread that made the change.
    """

    def __init__(
        self,
        spec: ServerSpec,
        provisioner: Provisioner,
        probe: Probe,
        news: Callable[[str], None],
        changed: Callable[[ServerRun], None],
    ) -> None:
        self._run = ServerRun(spec, provisioner, probe, news, changed)
        super().__init__(self._run.connector.connect, self._run.clients)

    def __repr__(self) -> str:
        where = self._run.restarted.rstrip(".") or self.base_url
        return f"<Server {self.name}: {self.state.value}, {where}>"

    # Front ends show the status of the server; see `view.Viewable`.

    def _repr_html_(self) -> str:
        return self.status._repr_html_()

    def _repr_markdown_(self) -> str:
        return self.status._repr_markdown_()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: FBT001 - as IPython calls it
        self.status._repr_pretty_(printer, cycle)

    def _mime_(self) -> tuple[str, str]:
        return self.status._mime_()

    @property
    def status(self) -> ServerStatus:
        """The status at this moment, as one value. Each property below is a part of it."""
        return self._run.status()

    @property
    def spec(self) -> ServerSpec:
        """The spec with which the server was started."""
        return self._run.spec

    @property
    def name(self) -> str:
        """The name of the server in this kernel."""
        return self.spec.name

    @property
    def model(self) -> str:
        """A Hugging Face name, or a folder."""
        return self.spec.model

    @property
    def state(self) -> ServerState:
        """The state. It equals its text: ``server.state == "ready"``. In a forked process it does not change after the fork."""
        return self._run.state

    @property
    def progress(self) -> Progress:
        """The stage of the start."""
        return self._run.lifecycle.now.progress

    @property
    def ready_after(self) -> float | None:
        """The seconds from the request of the start until the server was ready; None before that."""
        return self._run.lifecycle.now.ready_after

    @property
    def pid(self) -> int | None:
        """The pid of the server's first process; None before that process runs."""
        leader = self._run.leader
        return leader.pid if leader else None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return self._run.command.endpoint.url

    @property
    def base_url(self) -> str:
        """The address for an OpenAI client."""
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._run.command.endpoint.port

    @property
    def api_key(self) -> str:
        """The key that requests to ``/v1`` need. vLLM leaves other routes open (see the README)."""
        return str(self._run.command.endpoint.api_key)

    @property
    def log_path(self) -> Path | None:
        """The log file, which outlives the server; None before the file exists."""
        return self._run.log_path

    @property
    def start_kind(self) -> StartKind | None:
        """The kind of start: "cold" if vLLM was executed, "warm" if a spare became the server, "attached"; None before that."""
        return self._run.lifecycle.now.kind

    @property
    def cold_because(self) -> str:
        """Why no spare became the server; "" if one did."""
        return self._run.lifecycle.now.cold_because

    @property
    def asleep(self) -> int:
        """The level of vLLM's sleep mode at which the server sleeps, as far as it is known; 0 while the server is awake."""
        return self._run.sleep_mode.level

    @property
    def job(self) -> str:
        """The submission id of its job on a Ray cluster; "" for a server of this machine."""
        return self._run.command.job

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of its nodes in a Ray cluster; () while its job waits for a node, and for a server of this machine."""
        return self._run.placement.nodes

    @property
    def reachable(self) -> bool:
        """Whether its cluster answers; True for a server of this machine."""
        return self._run.placement.reachable

    @property
    def caveat(self) -> str:
        """A problem of the running server: its node has another vLLM, or its engine has died; "" for none."""
        return self._run.caveat

    @property
    def release(self) -> Release | None:
        """The result of the server's end; None before the end."""
        return self._run.lifecycle.now.release

    @property
    def error(self) -> VllmMagicError | None:
        """Why the server failed; None if it did not fail."""
        return self._run.lifecycle.now.error

    def log(self, n: int = 50) -> list[str]:
        """Return the last ``n`` lines of its log, oldest first, with masked keys. The file itself has the keys."""
        n, path = arguments.count("n", n), self.log_path
        return log.tail(path, n, self._run.secrets()) if path else []

    def processes(self) -> list[Process]:
        """Return its living processes, beginning with the leader; [] before its start and after its end.

        Raises:
            VllmMagicError: /proc cannot be read (no descriptor is free).
        """
        return members.living(self.name, self._run.lifecycle)

    def plot(self) -> Plot:
        """Return its life as a figure: VRAM, tokens a second, requests. The figure is drawn each time when it is shown."""
        from vllm_magic.plotting.plot import Plot

        def times() -> dict[str, float]:
            return {state.value: at for state, at in self._run.lifecycle.now.times.items()}

        return Plot(self.name, self.model, self._run.curve, times)

    def wait(self, timeout: float | None = None, report: Callable[[Server], None] | None = None) -> None:
        """Wait until the server is ready.

        Args:
            timeout: seconds; None for no limit.
            report: called with the server, in this thread, repeatedly during the wait.

        Raises:
            StartTimeout: the server was not ready in time. Its start continues.
            StartFailed: the server ended before it was ready.
            VllmMagicError: the server could not be started, or was stopped meanwhile; or this process is a forked copy of the
                server's kernel.
        """
        self._run.wait_ready(timeout, None if report is None else partial(report, self))

    def stop(self, grace: float | None = None, drain: float = 0.0) -> Release:
        """Stop the server, and return its release when its processes are gone and its VRAM is back.

        A second call waits for the same release, and shortens it if its ``grace`` is shorter. After a failed release (a process
        did not end, memory did not come back, a Ray cluster did not answer), a call tries and checks again.

        Args:
            grace: seconds from SIGTERM to SIGKILL; by default 5, or 2.5 while SIGTERM shows no effect, and vLLM's
                --shutdown-timeout added.
            drain: seconds that requests in flight have to finish before that.

        Raises:
            InvalidOption: ``grace`` or ``drain`` is not a length of time.
            ReleaseFailed: a process did not end, or memory did not come back.
            VllmMagicError: the release failed because of a fault of vllm_magic.
        """
        self._run.begin_stop(grace, drain)
        return self._run.wait_released()

    def sleep(self, level: int = 1) -> SleepResult:
        """Put the server to sleep: it keeps its processes and gives its VRAM back. This needs ``--enable-sleep-mode`` at its start.

        This waits while a server that may share a GPU falls asleep, wakes up, or is started by a switch.

        Args:
            level: 1 moves the weights to the machine's memory, 2 throws them away.

        Raises:
            InvalidOption: there is no such level.
            SleepFailed: the server has no sleep mode, does not sleep, or its VRAM did not come back.
            RequestFailed: the server is not ready.
            VllmMagicError: this process is a forked copy of the server's kernel.
        """
        self._run.check_process("Put it to sleep")
        return self._run.sleep_mode.sleep(level)

    def wake(self) -> SleepResult:
        """Wake the server up. Errors as for `sleep`."""
        self._run.check_process("Wake it up")
        return self._run.sleep_mode.wake()

    def metrics(self, window: float = 1.0) -> Metrics:
        """Return the metrics of the server, from its own counters.

        Args:
            window: seconds over which the tokens a second are counted, and which this call takes; 0 to leave them out.

        Raises:
            InvalidOption: ``window`` is not a length of time, or is infinite.
            RequestFailed: the server is not ready, or its end begins within the window.
            VllmMagicError: the server does not report metrics.
        """
        window = arguments.finite_seconds("window", window)
        began, found = time.monotonic(), self._run.connector.api().metrics()
        if found is not None and window > 0:
            self._run.lifecycle.wait_for(lambda now: not now.state.runs, window)
            last = self._run.connector.api().metrics()
            found = last and metrics.with_rates(found, last, time.monotonic() - began)
        if found is None:
            off = flags.has(self.spec.all_args, "--disable-log-stats")
            why = "--disable-log-stats disables them" if off else "Try again; %vllm logs may show more"
            raise VllmMagicError(f"{self.name} reports no metrics. {why}.")
        return found

    def bench(self, *args: str, report: Callable[[str, float], None] | None = None) -> list[str]:
        """Return the lines of the table that ``vllm bench serve`` prints; see `children.benchmark.run`.

        Raises:
            VllmMagicError: the benchmark fails.
        """
        words = arguments.words(args)
        return benchmark.run(
            self.spec, self._run.command, words, self._connect().verify, report, self._run.leader
        )

    def load_lora(self, name: str, path: str | os.PathLike[str]) -> None:
        """Load a LoRA adapter; ``server.chat(..., model=name)`` uses it.

        Args:
            name: the name of the adapter.
            path: the folder of the adapter.
        """
        name, path = arguments.text("name", name, ADAPTER), arguments.path("path", path)
        lora.load(self._connect(), name, _folder(path))

    def unload_lora(self, name: str) -> None:
        """Unload a LoRA adapter."""
        name = arguments.text("name", name, ADAPTER)
        lora.unload(self._connect(), name)

    def loras(self, timeout: float | None = SILENCE_LIMIT) -> list[str]:
        """Return the names of the loaded LoRA adapters; ``timeout`` is the limit for the whole answer, in seconds."""
        limit = arguments.limit("timeout", timeout)
        return lora.names(self._connect(), limit)


def run_of(server: Server) -> ServerRun:
    """Return the run of a server, which the packages of vllm_magic use, and users do not."""
    return server._run  # noqa: SLF001 - the only access from outside the class


def _folder(path: str) -> str:
    try:
        return str(Path(home.expanded(path)).absolute())
    except OSError as error:  # no home folder, no working directory
        raise InvalidOption(f"{error}.") from None
