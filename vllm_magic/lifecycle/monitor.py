"""Watching one running server: guards, log, readiness, and requests to stop."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from vllm_magic import background, ledger
from vllm_magic.engine.startup import log, stages
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.errors import VllmMagicError
from vllm_magic.gpu import locks
from vllm_magic.guard.ladder import KILL_LIMIT
from vllm_magic.guard.protocol import Ended, KnownProcesses, Message, Refused, Started, Stopping, Why
from vllm_magic.lifecycle import faults, idle_timeout
from vllm_magic.lifecycle.events import Ending, Idle, LeaderStarted, Moved, News, Notice, Ready, StopPlan
from vllm_magic.lifecycle.idle_timeout import Requests, ServerUse
from vllm_magic.linux import pidfd, processes, sessions, sockets
from vllm_magic.linux.processes import Identity
from vllm_magic.recovery import hung_guards

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable
    from concurrent.futures import Future

    from vllm_magic.engine.client.health import Api
    from vllm_magic.guard.client import Guards
    from vllm_magic.lifecycle.idle_timeout import Idleness
    from vllm_magic.linux.eventfd import EventFd
    from vllm_magic.provisioning.base import Prepared

READY_LOOK = 0.05  # seconds between looks at the log and at /health while the server starts
LAST_TO_DOWNLOAD = stages.ORDER.index(Stage.LOADING)
DOWNLOAD_LOOK = 0.5  # seconds between looks at what is being downloaded
DRAIN_LOOK = 0.25  # seconds between looks at /metrics while requests finish
DISK_LIMIT = 1.0  # seconds for the disk of the log to say whether it is full
ANSWER_LIMIT = 5.0  # seconds for a guard to say that it has begun; one that does not is taken for hung
GUARD_LIMIT = KILL_LIMIT + 10.0  # seconds beyond the grace for the guards to be done; then they are killed

_T = TypeVar("_T")


class Monitor:
    """Runs until both guards are gone.

    Attributes:
        leader: once it runs.
        ended: what the guards said that they ended.
        refused: why the leader could not be executed.
        why: what made the server end.
        ready: whether ``/health`` has answered.
        began: when the end began, by `time.monotonic`.
    """

    def __init__(
        self,
        prepared: Prepared,
        guard: Guards,
        api: Api,
        requests: queue.SimpleQueue[StopPlan],
        wake: EventFd,
        notice: Callable[[Notice], None],
        idleness: Idleness | None = None,
        keep_alive: float = idle_timeout.KEEP_ALIVE,
    ) -> None:
        self.leader: Identity | None = None
        self.ended: list[Ended] = []
        self.refused: Refused | None = None
        self.why = Why.GUARD_GONE
        self.ready = False
        self.began: float | None = None
        self._disk: Future[str] | None = None
        self._prepared = prepared
        self._guard = guard
        self._api = api
        self._requests = requests
        self._wake = wake
        self._notice = notice
        self._idleness = idleness
        self._left = Requests(keep_alive)  # what a drain waits for
        self._follower = log.Follower(prepared.folder.log)
        self._progress = Progress(Stage.QUEUED)
        self._download_look = 0.0
        self._guards: list[Identity] = []
        self._faults: set[str] = set()  # that were told
        self._plan: StopPlan | None = None
        self._drain_until: float | None = None
        self._guard_deadline: float | None = None
        self._guards_killed = False
        # Requests to the server, each in a thread of its own: none holds up what is heard here.
        self._health: Future[bool] | None = None
        self._use: Future[ServerUse] | None = None

    def run(self, cleanup: contextlib.ExitStack) -> None:
        """Watch; ``cleanup`` gets what must stay until the release is proved (the locks of the GPUs).

        Raises:
            VllmMagicError: the guards can neither be heard nor killed.
        """
        poller = select.poll()
        poller.register(self._guard.fileno(), select.POLLIN)
        poller.register(self._wake.fileno(), select.POLLIN)
        for message in self._guard.waiting():
            self._hear(message, cleanup)
        while True:
            timeout = self._timeout()
            ready = {fd for fd, _ in poller.poll(None if timeout is None else timeout * 1000)}
            if self._guard.fileno() in ready:
                messages = self._guard.receive()
                if messages is None:
                    self._begin_release(cleanup, time.monotonic())
                    return
                for message in messages:
                    self._hear(message, cleanup)
            if self._wake.fileno() in ready:
                os.eventfd_read(self._wake.fileno())
            while not self._requests.empty():
                self._obey(self._requests.get(), cleanup)
            self._look()

    def give_up(self, cleanup: contextlib.ExitStack) -> None:
        """After a fault in `run`: kill the guards, so that their server can be released in their place.

        What they said before is heard as far as possible. Starts are kept off the GPUs as `run` does.
        """
        with contextlib.suppress(Exception):  # it may be the fault
            self._begin_release(cleanup, time.monotonic())
        with contextlib.suppress(Exception):  # without it the proof is weaker
            if self._guard_deadline is None:
                self._prepared.verifier.observe_before_stop(self._members())
        if self.why is Why.GUARD_GONE:
            self.why = self._asked_why if self._plan else Why.FAULT
        hung_guards.kill(self._guards)
        self._guard.kill()
        with contextlib.suppress(Exception):  # it may be the fault
            while messages := self._guard.receive():
                self._hear_last(messages)

    def _hear_last(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Started):
                self.leader = Identity(*message.leader)
            elif isinstance(message, Ended):
                self.ended.append(message)

    def _timeout(self) -> float | None:
        if self._drain_until is not None:
            return max(0.0, min(DRAIN_LOOK, self._drain_until - time.monotonic()))
        if self._guard_deadline is not None:
            return max(0.0, self._guard_deadline - time.monotonic())
        if self._idleness and self._is_serving():
            return max(0.0, self._idleness.next_look - time.monotonic()) if self._use is None else None
        return READY_LOOK if self._is_starting() else None

    def _is_starting(self) -> bool:
        return self.leader is not None and not self.ready and self.began is None

    def _is_serving(self) -> bool:
        return self.ready and self.began is None

    def _hear(self, message: Message, cleanup: contextlib.ExitStack) -> None:
        if isinstance(message, Started):
            self.leader = Identity(*message.leader)
            self._guards = [Identity(*message.outer), Identity(*message.inner)]
            verifier = self._prepared.verifier
            self._notice(
                LeaderStarted(
                    self._prepared.folder,
                    self.leader,
                    verifier.baseline.gpus,
                    verifier.chosen,
                    self._prepared.kind,
                    self._prepared.cold_because,
                )
            )
            self._move(Progress(self._prepared.first))
        elif isinstance(message, KnownProcesses):
            verifier = self._prepared.verifier
            verifier.known = {
                *filter(processes.is_alive, verifier.known),
                *(Identity(*one) for one in message.known),
            }
        elif isinstance(message, Refused):
            self.refused = message
        elif isinstance(message, Stopping):
            self.why = Why(message.why)
            if self.why is Why.ASKED:
                self.why = self._asked_why
            self._begin_release(cleanup, time.monotonic())
            grace = self._plan.grace if self._plan else 0.0
            self._guard_deadline = time.monotonic() + grace + GUARD_LIMIT
            self._notice(Ending(self.why))
        elif isinstance(message, Ended):
            self.ended.append(message)

    @property
    def disk(self) -> str:
        """That the disk of the log was full when the end began; "" where it was not, or does not answer."""
        if self._disk is None:
            return ""
        with contextlib.suppress(FutureTimeoutError):
            return self._disk.result(DISK_LIMIT)
        return ""

    @property
    def _asked_why(self) -> Why:
        return Why.IDLE if self._idleness and self._idleness.over else Why.ASKED

    def _begin_release(self, cleanup: contextlib.ExitStack, began: float) -> None:
        """Keep starts off the GPUs, from the first sign of the end until it is proved."""
        if self.began is not None:
            return
        self.began = began
        self._disk = background.call(ledger.full_disk, lambda: None)  # a disk that hangs holds up no stop
        # Locks that cannot be had (another user made their folder) are no reason to keep a server running.
        with contextlib.suppress(OSError):
            cleanup.enter_context(locks.ReleaseLocks(self._prepared.gpus))

    def _obey(self, plan: StopPlan, cleanup: contextlib.ExitStack) -> None:
        """The first request begins the end; another one with less grace means: hurry."""
        before, self._plan = self._plan, self._plan or plan
        if before is None:
            self._begin_release(cleanup, plan.asked)
            if plan.drain > 0 and self.ready:
                self._drain_until = time.monotonic() + plan.drain
                self._use = None  # a look that has begun before may not see the latest request
            else:
                self._end(plan)
        elif plan.hurry and plan.grace < before.grace:
            self._end(plan)

    def _end(self, plan: StopPlan) -> None:
        if self._guard_deadline is None:
            self._prepared.verifier.observe_before_stop(self._members())
            self._guard_deadline = time.monotonic() + ANSWER_LIMIT
        self._drain_until = None
        self._guard.stop(plan.grace, plan.patience)

    def _look(self) -> None:
        if self._is_starting():
            self._look_at_log()
            self._look_at_download()
            self._look_at_health()
        if self._idleness and self._is_serving():
            self._look_at_use(self._idleness)
        if self._drain_until is not None and self._plan is not None and self._is_drained():
            self._end(self._plan)
        if self._guard_deadline is not None and time.monotonic() >= self._guard_deadline:
            # Guards that do not answer are killed: end-of-file follows, and the rescue.
            if self._guards_killed:
                raise VllmMagicError(
                    f"The guards (pid {self._guard.pid}) do not answer and cannot be killed. "
                    "What they guard may still run: see %vllm gpu."
                )
            self._guards_killed = True
            self._guard.kill()
            for one in self._guards:
                pidfd.send(one, signal.SIGKILL)
            self._guard_deadline = time.monotonic() + ANSWER_LIMIT

    def _is_drained(self) -> bool:
        assert self._drain_until is not None  # noqa: S101 - the caller has looked
        if time.monotonic() >= self._drain_until:
            return True
        use = self._seen_use()
        return use is not None and self._left.under_way(use, time.monotonic()) is False

    def _seen_use(self) -> ServerUse | None:
        """What a look at the server's use has seen, once it is done; begins one where none is under way."""
        if self._use is None:
            self._use = background.call(
                lambda: idle_timeout.look(self._api, self._prepared.port), self._wake.set
            )
            return None if self._use else ServerUse(None, ())
        if not self._use.done():
            return None
        seen, self._use = self._result(self._use, ServerUse(None)), None
        return seen

    def _result(self, done: Future[_T], without: _T) -> _T:
        """What a look has found; ``without`` where it has a fault, which is told once, and no reason to end the server."""
        try:
            return done.result()
        except Exception as error:  # noqa: BLE001 - see above
            fault = faults.told(error)
            if fault not in self._faults:
                self._faults.add(fault)
                self._notice(News(fault))
            return without

    def _look_at_log(self) -> None:
        for line in self._follower.new_lines():
            said = stages.read(line)
            if said is not None:
                self._move(stages.later(self._progress, said))

    def _look_at_download(self) -> None:
        """Weights come when they are to be loaded, and what is small before."""
        now = time.monotonic()
        if now >= self._download_look and stages.ORDER.index(self._progress.stage) <= LAST_TO_DOWNLOAD:
            self._download_look = now + DOWNLOAD_LOOK
            self._move(replace(self._progress, download=self._prepared.downloads.look()))

    def _look_at_health(self) -> None:
        if self._health is None:
            self._health = background.call(self._is_ready, self._wake.set)
        elif self._health.done():
            ready, self._health = self._result(self._health, without=False), None
            if ready:
                self.ready = True
                self._notice(Ready())
                self._guard.note()
                self._prepared.verifier.observe_ready(self._members())

    def _is_ready(self) -> bool:
        """Called in another thread. Nothing is sent to a listener that is not ours."""
        return self._api.accepts() and self._answers_for_us() and self._api.is_ready()

    def _look_at_use(self, idleness: Idleness) -> None:
        if self._use is None and time.monotonic() < idleness.next_look:
            return
        use = self._seen_use()
        if use is not None and idleness.judge(use, time.monotonic()):
            self._notice(Idle())

    def _answers_for_us(self) -> bool:
        """Whether it is our server that listens where we connect to, as far as can be told, and nobody else."""
        ours = [identity.pid for identity in self._members()]
        return sockets.listens(ours, self._prepared.address, self._prepared.port) is not False

    def _members(self) -> set[Identity]:
        """The server's processes, as far as they did not flee."""
        if self.leader is None:
            return set()
        table = sessions.near([self.leader.pid])
        return {table[pid].identity for pid in processes.server_members(table, self.leader) if pid in table}

    def _move(self, progress: Progress) -> None:
        if progress != self._progress:
            self._progress = progress
            self._notice(Moved(progress))
