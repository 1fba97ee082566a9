"""One server as the rest of the world sees it: what it is, and what can be asked of it.

Locks: the registry's lock comes before a server's, which is in its `Course`. Who puts a server to sleep or wakes it
holds another one, before that.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.curve import Curve, Sample
from vllm_magic.engine import command as commands
from vllm_magic.engine import history, log
from vllm_magic.engine.connection import Connection
from vllm_magic.engine.pace import Pace
from vllm_magic.errors import ReleaseFailed, RequestFailed, StartFailed, StartTimeout, VllmMagicError
from vllm_magic.guard.protocol import Why
from vllm_magic.life import Life, idle, outcome
from vllm_magic.life.beginning import Fresh
from vllm_magic.life.course import Course, ServerState
from vllm_magic.life.notices import (
    Idle,
    Launched,
    NeverStarted,
    News,
    Notice,
    Over,
    Ready,
    StartKind,
    StopPlan,
)
from vllm_magic.life.service import Service
from vllm_magic.linux import processes, sessions
from vllm_magic.masking import known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vllm_magic.engine.command import Command
    from vllm_magic.engine.log import Follower
    from vllm_magic.engine.pace import Estimate
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.engine.stages import Progress, Stage
    from vllm_magic.life.beginning import Attached
    from vllm_magic.life.spare import Cast
    from vllm_magic.linux.processes import Identity, Process
    from vllm_magic.plot import Plot
    from vllm_magic.release import Release

__all__ = ["Server", "ServerState"]

GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a server that is ending
PATIENCE = 2.5  # seconds to SIGKILL for one that shows no sign of it: SIGTERM was swallowed
REPORT = 0.25  # seconds between two reports of a waiting start


class Server(Service):
    """A vLLM server of this kernel. Safe to use from any thread. `manager.Manager` makes them.

    What can be done with it once it is ready (`chat`, `embed`, `client`, `metrics`, `sleep`, ...) is in `Service`.

    Attributes:
        spec: what was asked for.
        curve: what the manager's sampler saw of it, from its start to some seconds after its end.

    Args:
        spec: what was asked for.
        command: how it is reached.
        beginning: how its life begins.
        tell: called, in a thread of its own, with each line that a person should hear.
        moved: called with the server after whatever changes in its life, in the thread that changed it.
    """

    def __init__(
        self,
        spec: ServerSpec,
        command: Command,
        beginning: Fresh | Attached,
        tell: Callable[[str], None],
        moved: Callable[[Server], None] = lambda _: None,
    ) -> None:
        super().__init__(spec, command)
        self.curve = Curve()
        self._tell = tell
        self._moved = moved
        self._pid = os.getpid()
        self._course = Course(spec.name, Pace(history.earlier(spec)))
        self._whole = isinstance(beginning, Fresh)  # its start is seen from the beginning
        self._beginning = beginning
        self._life = Life(spec.name, command, beginning, self._notice, spec.ttl)

    def __repr__(self) -> str:
        return f"<Server {self.name}: {self.state.value}, {self.base_url}>"

    # What it is.

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
        """Compares equal to its value: ``server.state == "ready"``."""
        return self._course.now.state

    @property
    def progress(self) -> Progress:
        """The stage of the start."""
        return self._course.now.progress

    @property
    def estimate(self) -> Estimate:
        """How far the start is, in shares of its time."""
        return self._course.estimate()

    @property
    def stages(self) -> dict[Stage, float]:
        """Seconds of each stage of the start so far, those apart that waited for the GPU; {} after a download."""
        return self._course.stages()

    @property
    def pid(self) -> int | None:
        """The leader's pid; None before it runs."""
        return self.leader.pid if self.leader else None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return self._command.url

    @property
    def base_url(self) -> str:
        """Where an OpenAI client connects to."""
        return f"{self.url}/v1"

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._command.port

    @property
    def api_key(self) -> str:
        """The key that ``/v1`` asks for. vLLM leaves other routes open (see the README)."""
        return self._command.api_key

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach it."""
        return self._command.exposed

    @property
    def log_path(self) -> Path | None:
        """The log file, which outlives the server; None before there is one."""
        folder = self._course.now.folder
        if folder is None:
            return None
        return folder.log if folder.log.exists() else folder.kept_log

    @property
    def seconds(self) -> float:
        """Since the start was asked for."""
        return self._course.seconds

    @property
    def ready_after(self) -> float | None:
        """Seconds from the request to ready; None before that."""
        return self._course.now.ready_after

    @property
    def times(self) -> Mapping[ServerState, float]:
        """When it entered each of its states, in seconds since the epoch."""
        return self._course.now.times

    @property
    def start_kind(self) -> StartKind | None:
        """Whether vLLM was executed for it ("cold") or a spare became it ("warm"); None before it runs."""
        return self._course.now.kind

    @property
    def cold_because(self) -> str:
        """Why no spare became it; "" where one did."""
        return self._course.now.cold_because

    @property
    def cast(self) -> Cast:
        """What a spare for starts like its own is made for."""
        return self._beginning.cast

    @property
    def leader(self) -> Identity | None:
        """Its first process, whether it lives or not; None before it runs."""
        return self._course.now.leader

    @property
    def release(self) -> Release | None:
        """What its end did; None before that."""
        return self._course.now.release

    @property
    def is_left(self) -> bool:
        """Whether its release is over, and processes of it live on that SIGKILL did not end; `stop` tries again."""
        return self._course.now.is_left

    @property
    def error(self) -> VllmMagicError | None:
        """Why it failed; None unless it did."""
        return self._course.now.error

    @property
    def farewell(self) -> str:
        """What became of it, in words, where nobody had asked for that and it is no failure; else ""."""
        release = self.release
        return self._farewell(release) if release else ""

    def last_words(self) -> str:
        """That it failed, and why, for whoever is there next; "" where that is known, or was said before."""
        error = self._course.hear()
        return outcome.told(self.name, error) if error else ""

    def log(self, n: int = 50) -> list[str]:
        """The last ``n`` lines of its log, oldest first, keys masked; the file has them as they are."""
        path = self.log_path
        return log.tail(path, n, self._secrets()) if path else []

    def follower(self) -> Follower | None:
        """Gives what comes to its log, from the beginning on, keys masked; None before there is one."""
        path = self.log_path
        return log.Follower(path, self._secrets()) if path else None

    def processes(self) -> list[Process]:
        """Its living processes, the leader first; [] before and after."""
        now = self._course.now
        leader = now.leader
        if leader is None or now.state.over:
            return []
        table = sessions.near([leader.pid])
        living = [table[pid] for pid in processes.server_members(table, leader) if table[pid].alive]
        return sorted(living, key=lambda one: (one.identity != leader, one.identity.start))

    def plot(self) -> Plot:
        """Its life as a figure: VRAM, tokens a second, requests. As it is when it is shown, also after its end."""
        from vllm_magic.plot import Plot

        def times() -> dict[str, float]:
            return {state.value: at for state, at in self.times.items()}

        return Plot(self.name, self.model, self.curve, times)

    def connection(self) -> Connection:
        """For requests to it.

        Raises:
            RequestFailed: it is not ready.
        """
        now = self._course.now
        if now.state is ServerState.STARTING:
            stage = now.progress.stage.value
            raise RequestFailed(
                f"{self.name} is still starting: {stage}. Wait for it: server.wait(), or %vllm shows how far it is."
            )
        if now.state is not ServerState.READY:
            hint = now.error or f"Start it again: %vllm restart {self.name}"
            raise RequestFailed(f"{self.name} cannot be asked any more: it is {now.state.value}. {hint}")
        return Connection(self.name, self._command)

    # What it does.

    def begin(self) -> None:
        """Start it; the manager does this once.

        Raises:
            StartFailed: the kernel has no thread for it.
        """
        try:
            self._life.begin()
        except RuntimeError as error:  # can't start new thread
            reason = StartFailed(
                f"{self.name} could not be started: {error}", "End some threads, and try again"
            )
            self._notice(NeverStarted(reason))
            self.last_words()  # said here
            raise reason from error

    def wait(self, timeout: float | None = None, report: Callable[[Server], None] | None = None) -> None:
        """Return when it is ready.

        Args:
            timeout: seconds; None waits as long as it starts.
            report: called in this thread again and again while it waits.

        Raises:
            StartTimeout: it was not ready in time. It goes on starting.
            StartFailed: it ended before it was ready.
            VllmMagicError: it could not be started at all, or has been stopped meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._course.wait_for(lambda now: now.state is not ServerState.STARTING, REPORT):
            if report is not None:
                report(self)
            if deadline is not None and time.monotonic() >= deadline:
                raise StartTimeout(
                    f"{self.name} was not ready after {timeout:g} s, but still {self.progress.stage.value}",
                    "Give it more time with --timeout, or see %vllm logs",
                )
        self._course.wait_for(lambda now: now.state is not ServerState.STOPPING)
        if self.state is not ServerState.READY:
            raise (
                self._course.hear() or self.error or StartFailed(f"{self.name} was stopped", "Start it again")
            )

    def stop(self, grace: float | None = None, drain: float = 0.0) -> Release:
        """End it, and return when its processes are gone and its VRAM is back.

        A second call waits for the first; with a ``grace`` of its own it hurries it. After one that failed since
        something would not end it tries again.

        Args:
            grace: seconds from SIGTERM to SIGKILL; None: as long as SIGTERM shows an effect, 5 at most.
            drain: seconds that requests in flight get to finish first.

        Raises:
            ReleaseFailed: something would not end, or memory did not come back.
            VllmMagicError: a fault of vllm_magic; nothing is known of the end.
        """
        self.begin_stop(grace, drain)
        return self.wait_released()

    def begin_stop(self, grace: float | None = None, drain: float = 0.0) -> None:
        """The first half of `stop`: ask for the release, and return at once.

        Raises:
            VllmMagicError: this is a forked copy of the process that the server belongs to.
        """
        if os.getpid() != self._pid:
            raise VllmMagicError(
                f"This is a forked process; {self.name} belongs to the one it came from. Stop it there."
            )
        if self.is_left:
            self._begin_again()
        if self.state.over:
            return
        # Asked before it is said: an interrupt in between must not leave a server that seems to be stopping.
        self._life.stop(self._plan(grace, drain))
        self._course.ask()
        self._moved(self)

    def _begin_again(self) -> None:
        if not self._course.reopen():
            return
        try:
            self._life.again()
        except RuntimeError as error:  # can't start new thread
            self._course.give_up()
            raise VllmMagicError(
                f"{self.name} cannot be stopped now: {error}. End some threads, and try again."
            ) from error

    def wait_over(self, timeout: float | None = None) -> bool:
        """Return when it is released or failed, whatever the reason; False after ``timeout`` seconds."""
        return self._course.wait_for(lambda now: now.state.over, timeout)

    def wait_released(self) -> Release:
        """The second half of `stop`: wait for the release, and judge it. Raises what `stop` raises."""
        self.wait_over()
        now = self._course.now
        if now.release is None or not now.release.verified:
            raise now.error or ReleaseFailed(f"{self.name}: nothing is known of its end.")
        return now.release

    def let_go(self) -> None:
        """The kernel is about to end: ask for the release, unless it is to be kept, and return at once."""
        if not self.spec.keep:
            self._life.stop(StopPlan(grace=0.5, patience=0.5))

    def _secrets(self) -> list[str]:
        return known({**os.environ, **dict(self.spec.env), "VLLM_API_KEY": self.api_key})

    def _plan(self, grace: float | None, drain: float) -> StopPlan:
        drain = min(drain, durations.MOST)
        if grace is not None:
            grace = min(grace, durations.MOST)
            return StopPlan(grace, grace, drain, hurry=True)
        own = min(commands.shutdown_timeout(self.spec.all_args), durations.MOST)
        return StopPlan(GRACE + own, PATIENCE + own, drain)

    def _farewell(self, release: Release) -> str:
        return idle.farewell(self.spec.ttl) if release.verified and release.why == Why.IDLE.value else ""

    def _notice(self, notice: Notice) -> None:
        """Take what its life tells, in the life's own thread."""
        if isinstance(notice, News):
            self._tell(notice.text)
        elif isinstance(notice, Launched):
            if notice.kind is StartKind.WARM:
                self._course.go_by(Pace(history.earlier(self.spec, warm=True)))
            chosen = [number for number, gpu in enumerate(notice.baseline) if gpu.uuid in notice.chosen]
            used = tuple(gpu.used for gpu in notice.baseline)
            self.curve.begin(used, chosen)
            if self._whole:  # it holds nothing yet
                self.curve.add(Sample(time.time(), used, (0,) * len(used)))
        elif isinstance(notice, Idle):
            self.begin_stop()
        elif isinstance(notice, Over) and (words := self._farewell(notice.release)):
            self._tell(f"{self.name} was {words}.")
        self._course.take(notice)
        self._moved(self)
        if isinstance(notice, Ready) and self._whole and self.ready_after is not None:
            history.keep(self.spec, self.stages, warm=self.start_kind is StartKind.WARM)
