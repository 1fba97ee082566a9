"""One server as the rest of the world sees it: how it is started and ended, and what its life tells of it.

Locks: the registry's lock comes before a server's, which is in its `Lifecycle`. Who puts a server to sleep or wakes it
holds another one, before that.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from vllm_magic import arguments, durations
from vllm_magic.engine.startup import history
from vllm_magic.engine.startup.estimate import Pace
from vllm_magic.errors import ReleaseFailed, StartFailed, StartTimeout, VllmMagicError
from vllm_magic.lifecycle import idle_timeout
from vllm_magic.lifecycle.events import (
    Idle,
    LeaderStarted,
    NeverStarted,
    News,
    Notice,
    Over,
    Ready,
    StopPlan,
)
from vllm_magic.lifecycle.state import Lifecycle, ServerState
from vllm_magic.lifecycle.supervisor import Supervisor
from vllm_magic.plotting.timeseries import Sample
from vllm_magic.provisioning.base import StartKind
from vllm_magic.server.portrait import Portrait

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.provisioning.base import Provisioner
    from vllm_magic.provisioning.standby import StandbySpec
    from vllm_magic.release.result import Release

__all__ = ["Server", "ServerState"]

REPORT = 0.25  # seconds between two reports of a waiting start


class Server(Portrait):
    """A vLLM server of this kernel. Safe to use from any thread. `manager.Manager` makes them.

    What it is (`name`, `state`, `url`, `log`, `processes`, ...) is in `Portrait`, and what can be done with it once it is
    ready (`chat`, `embed`, `client`, `metrics`, `sleep`, ...) in `Service`.

    Args:
        spec: what was asked for.
        provisioner: makes it.
        probe: reads the GPUs.
        tell: called, in a thread of its own, with each line that a person should hear.
        moved: called with the server after whatever changes in its life, in the thread that changed it.
    """

    def __init__(
        self,
        spec: ServerSpec,
        provisioner: Provisioner,
        probe: Probe,
        tell: Callable[[str], None],
        moved: Callable[[Server], None] = lambda _: None,
    ) -> None:
        super().__init__(spec, provisioner.command, Lifecycle(spec.name, Pace(history.earlier(spec))))
        self._tell = tell
        self._moved = moved
        self._pid = os.getpid()
        self._provisioner = provisioner
        keep_alive = idle_timeout.keep_alive({**os.environ, **dict(spec.env)})
        self._supervisor = Supervisor(spec.name, provisioner, probe, self._notice, spec.ttl, keep_alive)

    @property
    def standby(self) -> StandbySpec | None:
        """What a standby for starts like its own has to import; None if no standby can become such a server."""
        return self._provisioner.standby

    def begin(self) -> None:
        """Start it; the manager does this once.

        Raises:
            StartFailed: the kernel has no thread for it.
        """
        try:
            self._supervisor.begin()
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
            VllmMagicError: it could not be started at all, or has been stopped meanwhile; or this is a forked copy of
                the process that the server belongs to.
        """
        self._check_process("Wait for it")
        timeout = arguments.seconds_or_none("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._lifecycle.wait_for(lambda now: now.state is not ServerState.STARTING, REPORT):
            if report is not None:
                report(self)
            if deadline is not None and time.monotonic() >= deadline:
                raise StartTimeout(
                    f"{self.name} was not ready after {timeout:g} s, but still {self.progress.stage.value}",
                    "Give it more time with --timeout, or see %vllm logs",
                )
        self._lifecycle.wait_for(lambda now: now.state is not ServerState.STOPPING)
        if not self.state.runs:
            raise (
                self._lifecycle.hear()
                or self.error
                or StartFailed(f"{self.name} was stopped", "Start it again")
            )
        if not self._provisioner.from_the_start:  # its first kernel may have put it to sleep
            self.look_whether_asleep()

    def stop(self, grace: float | None = None, drain: float = 0.0) -> Release:
        """End it, and return when its processes are gone and its VRAM is back.

        A second call waits for the first; with a ``grace`` of its own it hurries it. After one that failed (something
        would not end, memory was not back, a Ray cluster did not answer) it tries and looks again.

        Args:
            grace: seconds from SIGTERM to SIGKILL; None: as long as SIGTERM shows an effect, 5 at most.
            drain: seconds that requests in flight get to finish first.

        Raises:
            InvalidOption: ``grace`` or ``drain`` is no length of time.
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
        self._check_process("Stop it")
        plan = self._plan(grace, drain)
        if self.is_left or self.is_unseen:
            self._begin_again()
        if self.state.over:
            return
        # Asked before it is said: an interrupt in between must not leave a server that seems to be stopping.
        self._supervisor.stop(plan)
        self._lifecycle.ask()
        self._moved(self)

    def _check_process(self, hint: str) -> None:
        """A forked copy of the process has no thread that follows the server: it hears of nothing."""
        if os.getpid() != self._pid:
            raise VllmMagicError(
                f"This is a forked process; {self.name} belongs to the one it came from. {hint} there."
            )

    def _begin_again(self) -> None:
        if not self._lifecycle.reopen():
            return
        try:
            self._supervisor.again()
        except RuntimeError as error:  # can't start new thread
            self._lifecycle.give_up()
            raise VllmMagicError(
                f"{self.name} cannot be stopped now: {error}. End some threads, and try again."
            ) from error

    def wait_over(self, timeout: float | None = None) -> bool:
        """Return when it is released or failed, whatever the reason; False after ``timeout`` seconds.

        Raises:
            VllmMagicError: this is a forked copy of the process that the server belongs to.
        """
        self._check_process("Wait for it")
        limit = arguments.seconds_or_none("timeout", timeout)
        return self._lifecycle.wait_for(lambda now: now.state.over, limit)

    def wait_released(self) -> Release:
        """The second half of `stop`: wait for the release, and judge it. Raises what `stop` raises."""
        self.wait_over()
        now = self._lifecycle.now
        if now.release is None or not now.release.verified:
            raise now.error or ReleaseFailed(f"{self.name}: nothing is known of its end.")
        return now.release

    def let_go(self) -> None:
        """The kernel is about to end: ask for the release, unless it is to be kept, and return at once."""
        if self._provisioner.stops_at_exit:
            self._supervisor.stop(StopPlan(grace=0.5, patience=0.5))

    def _plan(self, grace: float | None, drain: float) -> StopPlan:
        drain = min(arguments.seconds_or_none("drain", drain) or 0.0, durations.MOST)
        if grace is not None:
            grace = min(arguments.seconds("grace", grace), durations.MOST)
            return StopPlan(grace, grace, drain, hurry=True)
        return StopPlan(self._provisioner.stop_grace, self._provisioner.stop_patience, drain)

    def _notice(self, notice: Notice) -> None:
        """Take what its life tells, in the life's own thread. Whatever fails on the way, its state goes on."""
        try:
            self._prepare_for(notice)
        finally:
            self._lifecycle.take(notice)
        self._moved(self)
        if isinstance(notice, Ready) and self._provisioner.from_the_start and self.ready_after is not None:
            history.keep(self.spec, self.stages, warm=self.start_kind is StartKind.WARM)

    def _prepare_for(self, notice: Notice) -> None:
        """Do what comes before the state that a notice tells of."""
        if isinstance(notice, News):
            self._tell(notice.text)
        elif isinstance(notice, LeaderStarted):
            if notice.kind is StartKind.WARM:
                self._lifecycle.go_by(Pace(history.earlier(self.spec, warm=True)))
            chosen = [number for number, gpu in enumerate(notice.baseline) if gpu.uuid in notice.chosen]
            used = tuple(gpu.used for gpu in notice.baseline)
            self.curve.begin(used, chosen)
            if self._provisioner.from_the_start:  # it holds nothing yet
                self.curve.add(Sample(time.time(), used, (0,) * len(used)))
        elif isinstance(notice, Idle):
            self.begin_stop()
        elif isinstance(notice, Over) and (words := self._farewell(notice.release)):
            self._tell(f"{self.name} was {words}.{notice.release.in_brackets}")
        if isinstance(notice, Over):
            self._clients.close()  # before the end is known, so that none is open once `stop` has returned
