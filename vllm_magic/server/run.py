"""One run of a server: its start, its life and its end. Our own packages use a `ServerRun`; users use a `server.Server`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from vllm_magic import arguments, durations, ledger
from vllm_magic.cluster.placement import Placement
from vllm_magic.engine.client.requests import OpenClients
from vllm_magic.engine.models.download import Downloads
from vllm_magic.engine.startup import history, log, standstill
from vllm_magic.engine.startup.estimate import Pace
from vllm_magic.errors import ReleaseFailed, StartFailed, StartTimeout, VllmMagicError
from vllm_magic.lifecycle import idle_timeout
from vllm_magic.lifecycle.events import (
    EngineDied,
    Idle,
    LeaderStarted,
    NeverStarted,
    News,
    Notice,
    Over,
    Ready,
    StartRepeated,
    StopPlan,
)
from vllm_magic.lifecycle.lifecycle import Lifecycle
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.lifecycle.supervisor import Supervisor
from vllm_magic.masking import secret_values
from vllm_magic.plotting.timeseries import Curve, Sample
from vllm_magic.provisioning.base import StartKind
from vllm_magic.release import report as release_report
from vllm_magic.server import members
from vllm_magic.server.connector import Connector
from vllm_magic.server.sleep_mode import SleepMode
from vllm_magic.server.status import ServerStatus, idle_release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.linux.processes import Identity
    from vllm_magic.provisioning.base import Provisioner
    from vllm_magic.provisioning.standby import StandbySpec
    from vllm_magic.release.result import Release

REPORT_INTERVAL = 0.25  # seconds between two reports of a start during the wait for it
LAST_LINES = 5  # lines of the log that the error of a start shows that takes too long
EXIT_GRACE = 0.5  # seconds from SIGTERM to SIGKILL when the kernel ends
ENGINE_DEAD = "its engine has ended, and its HTTP server goes on without it: every request fails"
MOST_READS = 10  # attempts to read a status without a change in the middle


class ServerRun:
    """Starts one server, follows its life, and ends it. Safe to use from any thread.

    Locks are taken in this order: a turn on the GPUs (`gpu_turns`), the registry's lock, the lifecycle's lock.

    Args:
        spec: the spec of the server.
        provisioner: makes the server.
        probe: reads the GPUs.
        news: called, in the supervisor's thread, with each line that the user should see.
        changed: called with this run after each change in its life, in the thread that made the change.

    Attributes:
        spec: the spec of the server.
        command: the command of the server, with its address and key.
        lifecycle: the state of the server.
        curve: the sampler's measurements, from the start to some seconds after the end.
        clients: the openai package's clients that are closed at the server's end.
        connector: connects to the server.
        sleep_mode: puts the server to sleep, and wakes it up.
        successor: the server that got the name after this one; None if there is none.
    """

    def __init__(
        self,
        spec: ServerSpec,
        provisioner: Provisioner,
        probe: Probe,
        news: Callable[[str], None],
        changed: Callable[[ServerRun], None],
    ) -> None:
        self.spec = spec
        self.command = provisioner.command
        self.lifecycle = Lifecycle(spec.name, Pace(history.earlier(spec)))
        self.curve = Curve()
        self.clients = OpenClients()
        self.connector = Connector(spec.name, self.command.endpoint, self.lifecycle, lambda: self.restarted)
        self.sleep_mode = SleepMode(spec, probe, self.connector, self.lifecycle)
        self._news = news
        self._changed = changed
        self._pid = os.getpid()
        self.successor: ServerRun | None = None
        self._provisioner = provisioner
        keep_alive = idle_timeout.keep_alive({**os.environ, **dict(spec.env)})
        self._supervisor = Supervisor(spec.name, provisioner, probe, self.handle, spec.ttl, keep_alive)

    @property
    def name(self) -> str:
        """The server's name in this kernel."""
        return self.spec.name

    @property
    def state(self) -> ServerState:
        """The state of the server in its life."""
        return _state(self.lifecycle.now.state, self.placement)

    @property
    def placement(self) -> Placement:
        """Where the server runs, and whether that place answers."""
        folder = self.lifecycle.now.folder
        return self._provisioner.placement(folder) if folder else Placement()

    @property
    def caveat(self) -> str:
        """See `ServerStatus.caveat`."""
        now = self.lifecycle.now
        return self.placement.caveat or (ENGINE_DEAD if now.is_engine_dead and now.state.runs else "")

    @property
    def leader(self) -> Identity | None:
        """The server's first process, alive or not; None before that process runs."""
        return self.lifecycle.now.leader

    @property
    def id(self) -> str:
        """The name of its private folder; "" before the folder exists."""
        folder = self.lifecycle.now.folder
        return folder.id if folder else ""

    @property
    def log_path(self) -> Path | None:
        """The log file, which outlives the server; None before the file exists."""
        folder = self.lifecycle.now.folder
        if folder is None:
            return None
        return folder.log if ledger.has_log(folder) else folder.kept_log

    @property
    def standby(self) -> StandbySpec | None:
        """The spec of a standby for starts like this one; None if no standby can become such a server."""
        return self._provisioner.standby

    @property
    def is_settled(self) -> bool:
        """Whether the server is over, and another stop would change nothing: all processes ended, and the proof is final."""
        now = self.lifecycle.now
        return now.state.over and not now.is_left and not now.may_recheck

    @property
    def restarted(self) -> str:
        """See `ServerStatus.restarted`."""
        later = self.successor
        while later is not None and later.state.over:
            later = later.successor
        if later is None or later.spec.model != self.spec.model:
            return ""
        return f"It was restarted since: server = vllm_magic.servers()[{self.name!r}]."

    def status(self) -> ServerStatus:
        """Return the status of the server at this moment."""
        for _ in range(MOST_READS):
            now = self.lifecycle.now
            read = self._read_status()
            # Otherwise the status has changed meanwhile, and the parts are of two moments.
            if self.lifecycle.now is now:
                break
        return read

    def _read_status(self) -> ServerStatus:
        now, placement, endpoint = self.lifecycle.now, self.placement, self.command.endpoint
        return ServerStatus(
            spec=self.spec,
            id=self.id,
            state=_state(now.state, placement),
            asleep=self.sleep_mode.level,
            can_sleep=self.sleep_mode.available,
            url=endpoint.url,
            exposed=endpoint.exposed,
            leader=now.leader,
            log_path=self.log_path,
            progress=now.progress,
            estimate=self.lifecycle.estimate(),
            stages=self.lifecycle.stages(),
            seconds=self.lifecycle.seconds,
            ready_after=now.ready_after,
            times=now.times,
            start_kind=now.kind,
            cold_because=now.cold_because,
            job=self.command.job,
            nodes=placement.nodes,
            reachable=placement.reachable,
            caveat=self.caveat,
            release=now.release,
            error=now.error,
            restarted=self.restarted,
        )

    def follower(self) -> log.Follower | None:
        """Return a reader of its log, from the beginning, with masked keys; None before the log exists."""
        path = self.log_path
        return log.Follower(path, self.secrets()) if path else None

    def secrets(self) -> list[str]:
        """Return the keys and tokens that its log may contain."""
        key = str(self.command.endpoint.api_key)
        return secret_values({**os.environ, **dict(self.spec.env), "VLLM_API_KEY": key})

    def unreported_failure(self) -> str:
        """Return a line about the failure of the server; "" if it did not fail, or if its failure was reported before."""
        error = self.lifecycle.report_error()
        return release_report.failure_line(self.name, error) if error else ""

    def begin(self) -> None:
        """Start the server, and return at once. The manager calls this once.

        Raises:
            StartFailed: no thread can be started.
        """
        try:
            self._supervisor.begin()
        except RuntimeError as error:  # can't start new thread
            failed = StartFailed(
                f"{self.name} could not be started: {error}", "End some threads, and try again"
            )
            self.handle(NeverStarted(failed))
            self.unreported_failure()  # the error below reports the failure
            raise failed from error

    def wait_ready(self, timeout: float | None, report: Callable[[], None] | None) -> None:
        """Wait until the server is ready. See `Server.wait`."""
        self.check_process("Wait for it")
        timeout = arguments.seconds_or_none("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.lifecycle.wait_for(lambda now: now.state is not ServerState.STARTING, REPORT_INTERVAL):
            if report is not None:
                report()
            if deadline is not None and time.monotonic() >= deadline:
                raise self._timed_out(timeout or 0.0)
        self.lifecycle.wait_for(lambda now: now.state is not ServerState.STOPPING)
        now = self.lifecycle.now
        if not now.state.runs:
            raise (
                self.lifecycle.report_error()
                or now.error
                or StartFailed(f"{self.name} was stopped", "Start it again")
            )
        if not self._provisioner.from_the_start:  # the first kernel may have put the server to sleep
            self.sleep_mode.is_asleep()

    def _timed_out(self, timeout: float) -> StartTimeout:
        """Return the error for a start that takes too long: its stage, what it waits for if that is known, and the end of its log."""
        path = self.log_path
        lines = log.tail(path, LAST_LINES, self.secrets()) if path else []
        environ = {**os.environ, **dict(self.spec.env)}
        own = members.pids(self.name, self.lifecycle)
        locks = Downloads(self.spec.model, self.spec.all_args, environ).locks
        waits_for = standstill.reason(lines, locks, own)
        stage = self.lifecycle.now.progress.stage.value
        return StartTimeout(
            f"{self.name} was not ready after {timeout:g} s, but still {stage}"
            + (f". It waits for {waits_for}" if waits_for else ""),
            "Give it more time with --timeout, or see %vllm logs",
            lines,
        )

    def begin_stop(self, grace: float | None = None, drain: float = 0.0) -> None:
        """Request the release, and return at once. Arguments as for `Server.stop`.

        Raises:
            InvalidOption: ``grace`` or ``drain`` is not a length of time.
            VllmMagicError: this process is a forked copy of the server's kernel.
        """
        self.check_process("Stop it")
        plan = self._plan(grace, drain)
        now = self.lifecycle.now
        if now.is_left or now.may_recheck:
            self._begin_again()
        if self.lifecycle.now.state.over:
            return
        # The request comes before the change of the state: an interrupt in between must not leave a server that only looks as
        # if it was stopping.
        self._supervisor.stop(plan)
        self.lifecycle.request_stop()
        self._changed(self)

    def _begin_again(self) -> None:
        if not self.lifecycle.reopen():
            return
        try:
            self._supervisor.release_again()
        except RuntimeError as error:  # can't start new thread
            self.lifecycle.give_up()
            raise VllmMagicError(
                f"{self.name} cannot be stopped now: {error}. End some threads, and try again."
            ) from error

    def wait_over(self, timeout: float | None = None) -> bool:
        """Wait until the server is released or failed, and return True; return False after ``timeout`` seconds.

        Raises:
            VllmMagicError: this process is a forked copy of the server's kernel.
        """
        self.check_process("Wait for it")
        limit = arguments.seconds_or_none("timeout", timeout)
        return self.lifecycle.wait_for(lambda now: now.state.over, limit)

    def wait_released(self) -> Release:
        """Wait for the end, and return the release. Errors as for `Server.stop`."""
        self.wait_over()
        now = self.lifecycle.now
        if now.release is None or not now.release.verified:
            raise now.error or ReleaseFailed(f"The end of {self.name} is not known. Stop it again.")
        return now.release

    def stop_at_exit(self) -> None:
        """Request the release, unless the server is to be kept, and return at once. Called when the kernel ends."""
        if self._provisioner.stops_at_exit:
            self._supervisor.stop(StopPlan(grace=EXIT_GRACE, patience=EXIT_GRACE))

    def check_process(self, hint: str) -> None:
        """Check that this process is the server's kernel. A forked copy has no thread that follows the server.

        Args:
            hint: what to do in the server's kernel.

        Raises:
            VllmMagicError: this process is a forked copy.
        """
        if os.getpid() != self._pid:
            raise VllmMagicError(
                f"This is a forked process, and {self.name} belongs to its parent process. {hint} there."
            )

    def _plan(self, grace: float | None, drain: float) -> StopPlan:
        drain = min(arguments.seconds_or_none("drain", drain) or 0.0, durations.MOST)
        if grace is not None:
            grace = min(arguments.seconds("grace", grace), durations.MOST)
            return StopPlan(grace, grace, drain, hurry=True)
        return StopPlan(self._provisioner.stop_grace, self._provisioner.stop_patience, drain)

    def handle(self, notice: Notice) -> None:
        """Handle a notice of the supervisor, in its thread. The state changes even if an error is raised here."""
        try:
            self._prepare_for(notice)
        finally:
            self.lifecycle.take(notice)
        self._changed(self)
        now = self.lifecycle.now
        if isinstance(notice, Ready) and self._provisioner.from_the_start and now.ready_after is not None:
            history.keep(self.spec, self.lifecycle.stages(), warm=now.kind is StartKind.WARM)

    def _prepare_for(self, notice: Notice) -> None:
        """Prepare the change of the state."""
        if isinstance(notice, News):
            self._news(notice.text)
        elif isinstance(notice, LeaderStarted):
            if notice.kind is StartKind.WARM:
                self.lifecycle.set_pace(Pace(history.earlier(self.spec, warm=True)))
            chosen = [number for number, gpu in enumerate(notice.baseline) if gpu.uuid in notice.chosen]
            used = tuple(gpu.used for gpu in notice.baseline)
            self.curve.begin(used, chosen)
            if self._provisioner.from_the_start:  # the server holds no memory yet
                self.curve.add(Sample(time.time(), used, (0,) * len(used)))
        elif isinstance(notice, StartRepeated):
            self.lifecycle.set_pace(Pace(history.earlier(self.spec)))
            self._news(f"{self.name} did not start: {notice.cause}. It is started once more.")
        elif isinstance(notice, EngineDied):
            self._news(f"{self.name}: {ENGINE_DEAD}. %vllm restart {self.name} starts it again.")
        elif isinstance(notice, Idle):
            self.begin_stop()
        elif isinstance(notice, Over):
            if ended := idle_release(self.spec, notice.release):
                self._news(f"{self.name} was {ended}.{notice.release.in_brackets}")
            self.clients.close()  # before the change of the state, so that no client is open after `stop` has returned


def _state(state: ServerState, placement: Placement) -> ServerState:
    lost = state is ServerState.READY and not placement.reachable
    return ServerState.UNREACHABLE if lost else state
