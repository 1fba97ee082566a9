"""What is known of a server, whoever asks; none of it changes anything."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vllm_magic import arguments
from vllm_magic.cluster import placement
from vllm_magic.cluster.placement import Placement
from vllm_magic.engine.client.connection import Connection
from vllm_magic.engine.startup import log
from vllm_magic.errors import RequestFailed, VllmMagicError, reason
from vllm_magic.guard.protocol import Why
from vllm_magic.lifecycle import idle_timeout
from vllm_magic.lifecycle.state import ServerState
from vllm_magic.linux import processes, sessions, sockets
from vllm_magic.masking import known
from vllm_magic.plotting.timeseries import Curve
from vllm_magic.release import report
from vllm_magic.server.actions import Service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.engine.startup.estimate import Estimate
    from vllm_magic.engine.startup.log import Follower
    from vllm_magic.engine.startup.stages import Progress, Stage
    from vllm_magic.lifecycle.state import Lifecycle
    from vllm_magic.linux.processes import Identity, Process
    from vllm_magic.plotting.plot import Plot
    from vllm_magic.provisioning.base import StartKind
    from vllm_magic.release.result import Release


class Portrait(Service):
    """What a `server.Server` is.

    Attributes:
        spec: what was asked for.
        curve: what the manager's sampler saw of it, from its start to some seconds after its end.

    Args:
        spec: what was asked for.
        command: how it is reached.
        lifecycle: where it is in its life.
    """

    def __init__(self, spec: ServerSpec, command: Command, lifecycle: Lifecycle) -> None:
        super().__init__(spec, command)
        self.curve = Curve()
        self._lifecycle = lifecycle
        self._listening = sockets.ListenerCheck(command.endpoint.address, command.endpoint.port)

    def __repr__(self) -> str:
        return f"<Server {self.name}: {self.state.value}, {self.base_url}>"

    @property
    def name(self) -> str:
        """Its name in this kernel."""
        return self.spec.name

    @property
    def model(self) -> str:
        """A Hugging Face name, or a folder."""
        return self.spec.model

    @property
    def state(self) -> ServerState:
        """Compares equal to its value: ``server.state == "ready"``. In a forked process it stays what it was at the fork."""
        state = self._lifecycle.now.state
        lost = state is ServerState.READY and not self.reachable
        return ServerState.UNREACHABLE if lost else state

    @property
    def progress(self) -> Progress:
        """The stage of the start."""
        return self._lifecycle.now.progress

    @property
    def estimate(self) -> Estimate:
        """How far the start is, in shares of its time."""
        return self._lifecycle.estimate()

    @property
    def stages(self) -> dict[Stage, float]:
        """Seconds of each stage of the start so far, those apart that waited for the GPU; {} after a download."""
        return self._lifecycle.stages()

    @property
    def pid(self) -> int | None:
        """The leader's pid; None before it runs."""
        return self.leader.pid if self.leader else None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return self._command.endpoint.url

    @property
    def base_url(self) -> str:
        """Where an OpenAI client connects to."""
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._command.endpoint.port

    @property
    def api_key(self) -> str:
        """The key that ``/v1`` asks for. vLLM leaves other routes open (see the README)."""
        return str(self._command.endpoint.api_key)

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach it."""
        return self._command.endpoint.exposed

    @property
    def id(self) -> str:
        """The name of its private folder, which ``vllm-magic ps`` shows; "" before there is one."""
        folder = self._lifecycle.now.folder
        return folder.id if folder else ""

    @property
    def log_path(self) -> Path | None:
        """The log file, which outlives the server; None before there is one."""
        folder = self._lifecycle.now.folder
        if folder is None:
            return None
        return folder.log if folder.log.exists() else folder.kept_log

    @property
    def _folder(self) -> Path | None:
        folder = self._lifecycle.now.folder
        return folder.path if folder else None

    @property
    def job(self) -> str:
        """The submission id of its job on a Ray cluster; "" for a server of this machine."""
        return self._command.job

    @property
    def nodes(self) -> tuple[str, ...]:
        """The addresses of the nodes of a Ray cluster that it runs on; none where it waits for room, or runs here."""
        return self._placement.nodes

    @property
    def reachable(self) -> bool:
        """Whether its cluster answers; always of a server of this machine."""
        return self._placement.reachable

    @property
    def caveat(self) -> str:
        """How the vLLM of its node differs from the one here, in a few words; "" where it does not, or runs here."""
        return self._placement.caveat

    @property
    def _placement(self) -> Placement:
        folder = self._lifecycle.now.folder
        return placement.read(folder.tmp) if folder and self.spec.cluster else Placement()

    @property
    def seconds(self) -> float:
        """Since the start was asked for."""
        return self._lifecycle.seconds

    @property
    def ready_after(self) -> float | None:
        """Seconds from the request to ready; None before that."""
        return self._lifecycle.now.ready_after

    @property
    def times(self) -> Mapping[ServerState, float]:
        """When it entered each of its states, in seconds since the epoch."""
        return self._lifecycle.now.times

    @property
    def start_kind(self) -> StartKind | None:
        """Whether vLLM was executed for it ("cold") or a spare became it ("warm"); None before it runs."""
        return self._lifecycle.now.kind

    @property
    def cold_because(self) -> str:
        """Why no spare became it; "" where one did."""
        return self._lifecycle.now.cold_because

    @property
    def leader(self) -> Identity | None:
        """Its first process, whether it lives or not; None before it runs."""
        return self._lifecycle.now.leader

    @property
    def release(self) -> Release | None:
        """What its end did; None before that."""
        return self._lifecycle.now.release

    @property
    def is_left(self) -> bool:
        """Whether its release is over, and processes of it live on that SIGKILL did not end; `stop` tries again."""
        return self._lifecycle.now.is_left

    @property
    def is_unseen(self) -> bool:
        """Whether its release is over and not proved, and another look may find it otherwise; `stop` looks again."""
        return self._lifecycle.now.is_unseen

    @property
    def error(self) -> VllmMagicError | None:
        """Why it failed; None unless it did."""
        return self._lifecycle.now.error

    @property
    def farewell(self) -> str:
        """What became of it, in words, where nobody had asked for that and it is no failure; else ""."""
        release = self.release
        return self._farewell(release) if release else ""

    def last_words(self) -> str:
        """That it failed, and why, for whoever is there next; "" where that is known, or was said before."""
        error = self._lifecycle.hear()
        return report.told(self.name, error) if error else ""

    def log(self, n: int = 50) -> list[str]:
        """The last ``n`` lines of its log, oldest first, keys masked; the file has them as they are."""
        n, path = arguments.count("n", n), self.log_path
        return log.tail(path, n, self._secrets()) if path else []

    def follower(self) -> Follower | None:
        """Gives what comes to its log, from the beginning on, keys masked; None before there is one."""
        path = self.log_path
        return log.Follower(path, self._secrets()) if path else None

    def processes(self) -> list[Process]:
        """Its living processes, the leader first; [] before and after.

        Raises:
            VllmMagicError: /proc cannot be read (no descriptor is free).
        """
        now = self._lifecycle.now
        leader = now.leader
        if leader is None or now.state.over:
            return []
        try:
            table = sessions.near([leader.pid])
            living = [table[pid] for pid in processes.server_members(table, leader) if table[pid].alive]
        except OSError as error:
            raise VllmMagicError(
                f"The processes of {self.name} cannot be seen: {reason(error)}. Free what is short, and try again."
            ) from error
        return sorted(living, key=lambda one: (one.identity != leader, one.identity.start))

    def plot(self) -> Plot:
        """Its life as a figure: VRAM, tokens a second, requests. As it is when it is shown, also after its end."""
        from vllm_magic.plotting.plot import Plot

        def times() -> dict[str, float]:
            return {state.value: at for state, at in self.times.items()}

        return Plot(self.name, self.model, self.curve, times)

    def connection(self) -> Connection:
        """For requests to it.

        Raises:
            RequestFailed: it is not ready.
        """
        now = self._lifecycle.now
        if now.state is ServerState.STARTING:
            stage = now.progress.stage.value
            raise RequestFailed(
                f"{self.name} is still starting: {stage}. Wait for it: server.wait(), or %vllm shows how far it is."
            )
        if now.state is not ServerState.READY:
            hint = now.error or f"Start it again: %vllm restart {self.name}"
            raise RequestFailed(f"{self.name} cannot be asked any more: it is {now.state.value}. {hint}")
        return Connection(self.name, self._command.endpoint, self._verify_listener)

    def _verify_listener(self) -> None:
        """Check that this very server listens where its requests go.

        That it is ready is what the guards said last. They may be stopped, or say a moment later that it has ended; a
        forked copy of this process never hears of it.

        Raises:
            RequestFailed: it has ended, or another program listens there.
        """
        hint = f"%vllm shows its state, %vllm restart {self.name} starts it again"
        if self.leader is None or not processes.is_alive(self.leader):
            raise RequestFailed(f"{self.name} has ended, so nothing was sent. {hint}.")
        if self._listening.belongs_to(lambda: [one.identity.pid for one in self.processes()]) is False:
            raise RequestFailed(
                f"{self.name} does not listen on port {self.port} any more, so nothing was sent. {hint}."
            )

    def _secrets(self) -> list[str]:
        return known({**os.environ, **dict(self.spec.env), "VLLM_API_KEY": self.api_key})

    def _farewell(self, release: Release) -> str:
        return (
            idle_timeout.farewell(self.spec.ttl) if release.verified and release.why == Why.IDLE.value else ""
        )
