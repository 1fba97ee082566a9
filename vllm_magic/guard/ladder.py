"""The stop ladder: end every process of a server, with SIGTERM first, and with SIGKILL if that has no effect.

The steps follow from vLLM's behaviour after a signal (measured on 0.32.0):

- SIGTERM to an idle leader ends all processes in half a second.
- With open streams, the engine ends at once, but the API server waits for its connections without a limit.
- The first SIGTERM during the engine's initialisation is lost. A second SIGTERM takes seconds.
- SIGTERM to the whole process group makes the leader hang, so only the leader gets it.

So the leader gets SIGTERM. When all engines have ended, the VRAM is back, and the other processes get `LINGER` more seconds.
Engines whose leader has ended get `LINGER` seconds too, since no process will end them. If no process has ended, the
leader gets a second SIGTERM, and SIGKILL follows after ``patience``. In any case SIGKILL follows after ``grace``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.guard.protocol import How, Stop
from vllm_magic.linux import marks, pidfd, processes
from vllm_magic.linux.processes import Identity, Process, shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a server that is ending
PATIENCE = 2.5  # the same for a server on which SIGTERM has no effect
LINGER = 1.0  # seconds for the other processes after the engine or the leader has ended
SECOND_SIGTERM = 1.0  # seconds without any effect before SIGTERM is sent again
KILL_LIMIT = 15.0  # seconds; a process that lives so long after SIGKILL is stuck in the kernel (state D)
GUARD_LIMIT = KILL_LIMIT + 10.0  # seconds beyond the grace for guards to be done
WAIT_INTERVAL = 0.25  # seconds between checks of the known processes
SCAN_INTERVAL = 2.0  # seconds between scans for new processes, each of which searches the whole machine

TRACKER_LIMIT = 1.0  # seconds for a resource tracker to remove the shared memory of ended processes
RESOURCE_TRACKER = "multiprocessing.resource_tracker"  # a part of its command line
UNKNOWN_PID = 0  # in place of the pid of a process that is left and cannot be found
ENGINE_TITLES = ("::EngineCor", "::Worker")  # parts of titles; a comm has at most 15 characters

Members = list[Process]


class Outcome(NamedTuple):
    """The processes that ended, and the processes that are left, each as [pid, start, name, how]; and the time in seconds."""

    ended: list[list[Any]]
    left: list[list[Any]]
    seconds: float


class Ladder:
    """One release.

    Args:
        find: returns the living processes of the server; called many times.
        leader: the process that gets SIGTERM; None if it has ended.
        before_signal: called with the living processes before each signal that may end a process, and again when all are
            stopped for the kill: a server that is starting makes new shared memory until then.
        is_empty: returns whether no process is left. A scan of /proc can miss a process that is forked while its parent
            exits, so an empty scan is no proof.
        end_grace: descriptors of which one becomes readable when a later stop may have come.
        later_stop: called when a descriptor of ``end_grace`` is readable; returns the later stop, or None. Its times begin
            now. A later stop can only shorten the times of the release.
        trackers_last: end multiprocessing's resource trackers after all other processes. They remove the shared memory of
            ended processes. This is for a server whose guards were killed while it started, so that no list of its shared
            memory exists.
        whole_groups: kill whole process groups. Not for processes that were started from a person's shell, whose group
            has other processes too. Without this, whole groups are only stopped, and only in the server's own sessions.
        session: the id of a session that has only processes of the server; None for none. Sessions whose leader is a process
            of the server are recognised without this.
    """

    def __init__(
        self,
        find: Callable[[], Members],
        leader: Identity | None,
        before_signal: Callable[[Members], None] = lambda _: None,
        is_empty: Callable[[], bool] = lambda: True,
        end_grace: Iterable[int] = (),
        later_stop: Callable[[], Stop | None] = lambda: None,
        *,
        trackers_last: bool = False,
        whole_groups: bool = True,
        session: int | None = None,
    ) -> None:
        self._find = find
        self._leader = leader
        self._before_signal = before_signal
        self._is_empty = is_empty
        self._end_grace = tuple(end_grace)
        self._later_stop = later_stop
        self._trackers_last = trackers_last
        self._whole_groups = whole_groups
        self._session = session
        self._names: dict[Identity, str] = {}
        self._sent: dict[Identity, How] = {}
        self._began = time.monotonic()
        self._next_scan = self._began

    def run(self, grace: float, patience: float) -> Outcome:
        """End all processes; return when all have ended, or `KILL_LIMIT` seconds after the first SIGKILL.

        Args:
            grace: seconds from SIGTERM to SIGKILL; 0 for SIGKILL at once.
            patience: the same, if SIGTERM has no effect at all.
        """
        alive = self._scan()
        if self._leader in _identities(alive) and grace > 0:
            alive = self._terminate_gracefully(alive, grace, patience)
        outcome = self._outcome(self._kill(alive))
        if not outcome.left and not self._is_empty():
            return outcome._replace(
                left=[[UNKNOWN_PID, 0, "a process that cannot be seen", How.SIGKILL.value]]
            )
        return outcome

    def _terminate_gracefully(self, alive: Members, grace: float, patience: float) -> Members:
        """Send SIGTERM to the leader, and wait as the module says; return the processes that are left for SIGKILL."""
        essential = {
            process.identity for process in alive if process.identity == self._leader or _is_engine(process)
        }
        self._send_sigterm(alive)
        again: float | None = self._began + SECOND_SIGTERM
        linger_since: float | None = None
        while alive:
            now = time.monotonic()
            limit = self._began + grace
            if linger_since is None and self._is_leader_or_engine_gone(alive):
                linger_since = now
            if linger_since is not None:
                limit = min(limit, linger_since + LINGER)
            if essential <= _identities(alive):  # no effect yet
                limit = min(limit, self._began + patience)
                if again is not None and now >= again:
                    alive = self._scan()
                    self._send_sigterm(alive)
                    again = None
            if now >= limit:
                alive = self._scan()
                if (
                    linger_since is None
                    or self._is_leader_or_engine_gone(alive)
                    or now >= self._began + grace
                ):
                    return alive
                linger_since = None  # the scan has found an engine that was not known
                continue
            timeout = min(WAIT_INTERVAL, limit - now)
            is_readable = pidfd.wait_for_any(_identities(alive), timeout, also=self._end_grace)
            if is_readable and (later := self._later_stop()):
                past = time.monotonic() - self._began
                grace, patience = min(grace, past + later.grace), min(patience, past + later.patience)
            alive = self._update(alive)
        return alive

    def _is_leader_or_engine_gone(self, alive: Members) -> bool:
        """Whether no engine is left, or no leader, which would end the engines."""
        return self._leader not in _identities(alive) or not any(map(_is_engine, alive))

    def _send_sigterm(self, alive: Members) -> None:
        self._before_signal(alive)
        if self._leader is not None and pidfd.send(self._leader, signal.SIGTERM):
            self._sent[self._leader] = How.SIGTERM

    def _kill(self, alive: Members) -> Members:
        """Send SIGKILL until no process is left, for `KILL_LIMIT` seconds at most; return the processes that are left."""
        limit = time.monotonic() + KILL_LIMIT
        while (alive or not self._is_empty()) and time.monotonic() < limit:
            victims = self._victims(alive)
            if alive and not victims:  # only resource trackers are left
                for tracker in alive:  # a guard that was killed may have left the tracker stopped
                    pidfd.send(tracker.identity, signal.SIGCONT)
                pidfd.wait_for_all(_identities(alive), TRACKER_LIMIT)
                self._trackers_last = False
                alive = self._scan()
                continue
            # All are stopped first, so that none forks while the others are being killed.
            stopped = [process for process in victims if pidfd.send(process.identity, signal.SIGSTOP)]
            self._before_signal(self._scan())
            if self._whole_groups and not self._trackers_last:
                _signal_groups(stopped, signal.SIGKILL)
            else:
                _signal_groups(self._in_own_sessions(stopped), signal.SIGSTOP)
                victims = self._stop_newcomers(victims, limit)
            for process in victims:
                pidfd.send(process.identity, signal.SIGKILL)
            self._sent.update(dict.fromkeys(_identities(victims), How.SIGKILL))
            pidfd.wait_for_all(_identities(victims), min(WAIT_INTERVAL, limit - time.monotonic()))
            alive = self._scan()
        return alive

    def _victims(self, alive: Members) -> Members:
        """Return the processes to kill now."""
        if not self._trackers_last:
            return alive
        return [process for process in alive if RESOURCE_TRACKER not in self._names.get(process.identity, "")]

    def _in_own_sessions(self, stopped: Members) -> Members:
        """Return the processes whose session has only processes of the server; never a process of this process's group.

        Their groups are stopped as a whole, because a chain of processes, each of which forks the next one, can stay ahead
        of the scans: on a busy machine a scan takes longer than a fork.
        """
        own = {process.identity.pid for process in stopped} | {self._session}
        mine = {now.group for pid in marks.own_ancestry() if (now := processes.read(pid))}
        living = [
            now
            for process in stopped
            if process.session in own and (now := processes.living(process.identity))
        ]
        return [process for process in living if process.group not in mine]

    def _stop_newcomers(self, stopped: Members, limit: float) -> Members:
        """Scan and stop until a scan finds no process that was forked meanwhile; return all stopped processes."""
        while time.monotonic() < limit:
            alive = self._victims(self._scan())
            new = _identities(alive) - _identities(stopped)
            if not new:
                return alive
            for identity in new:
                pidfd.send(identity, signal.SIGSTOP)
            stopped = alive
        return stopped

    def _scan(self) -> Members:
        """Find the living processes, and note their names."""
        alive = self._find()
        self._next_scan = time.monotonic() + SCAN_INTERVAL
        # The first name is kept: an ending process has lost its title.
        self._names.update(
            {
                process.identity: shown_name(process)
                for process in alive
                if process.identity not in self._names
            }
        )
        return alive

    def _update(self, alive: Members) -> Members:
        """Return the processes that still live. Scan for new ones every `SCAN_INTERVAL` seconds, and when none is left."""
        left = [now for process in alive if (now := processes.living(process.identity))]
        return left if left and time.monotonic() < self._next_scan else self._scan()

    def _outcome(self, left: Members) -> Outcome:
        def row(identity: Identity) -> list[Any]:
            how = self._sent.get(identity, How.ITSELF)
            return [identity.pid, identity.start, self._names[identity], how.value]

        remaining = _identities(left)
        return Outcome(
            ended=[row(identity) for identity in self._names if identity not in remaining],
            left=[row(identity) for identity in remaining],
            seconds=time.monotonic() - self._began,
        )


def _signal_groups(stopped: Members, number: signal.Signals) -> None:
    """Send a signal to whole process groups, including processes that were forked since the scan.

    A group keeps its number while a stopped member of it lives.
    """
    for group in {process.group for process in stopped} - {os.getpgrp()}:
        with contextlib.suppress(OSError):
            os.killpg(group, number)


def _identities(members: Members) -> set[Identity]:
    return {process.identity for process in members}


def _is_engine(process: Process) -> bool:
    name = shown_name(process)
    return any(part in name for part in ENGINE_TITLES)
