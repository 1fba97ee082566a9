"""The stop ladder: end every process of a server, politely as long as that has an effect.

What vLLM does with signals (measured on 0.32.0) shapes the rungs:

- SIGTERM to an idle leader ends everything in half a second;
- with open streams the engine goes at once, and then the API server waits for its connections for ever;
- the first SIGTERM during the engine's initialisation is swallowed, a second one takes seconds;
- SIGTERM to the whole group makes the leader hang, so only the leader gets it.

So: SIGTERM to the leader. Once no engine is left the VRAM is back, and the rest gets `LINGER` seconds more, as
do engines whose leader was killed: nobody tells them to end. If nothing at all ended, SIGTERM again, and when
``patience`` is over SIGKILL. In any case SIGKILL after ``grace``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.guard.protocol import How
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity, Process, shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LINGER = 1.0  # seconds for what is left when the engine or the leader is gone
SECOND_SIGTERM = 1.0  # seconds without any effect before SIGTERM is sent again
KILL_LIMIT = 15.0  # seconds; what SIGKILL has not ended by then is stuck in the kernel (state D)
LOOK = 0.25  # seconds between looks at those that are known
NEW_LOOK = 2.0  # seconds between looks for processes that are new: each looks at the whole machine

TIDY_LIMIT = 1.0  # seconds for a resource tracker to remove what the dead have left
RESOURCE_TRACKER = "multiprocessing.resource_tracker"  # in its command line
NOBODY_KNOWN = 0  # in place of a pid: something is left, and cannot be found
ENGINE_TITLES = ("::EngineCor", "::Worker")  # a comm is cut after 15 characters

Members = list[Process]


class Outcome(NamedTuple):
    """Who ended and how, and who would not: each a list of [pid, start, name, how]."""

    ended: list[list[Any]]
    left: list[list[Any]]
    seconds: float


class Ladder:
    """One release.

    Args:
        find: gives the living processes of the server; called again and again.
        leader: the process that SIGTERM goes to, or None when it is gone.
        note: called with those that live before each signal that may end something, and once all is stopped for the
            kill: a server that is still starting makes new shared memory until then.
        empty: whether really nothing is left. A look at /proc can miss a process that is being forked while
            its parent exits, so an empty look alone is not believed.
        hurry: descriptors which, once readable, end the politeness: the kernel died, or asked again.
        tidies: leave multiprocessing's resource trackers until the others are gone. They remove the shared memory of
            the dead, which nobody else may have noted: of a server that was still starting, and lost its guards.
        whole_groups: kill the process groups of what is left as a whole. Not for what was started from
            somebody's shell: bystanders share its group.
    """

    def __init__(
        self,
        find: Callable[[], Members],
        leader: Identity | None,
        note: Callable[[Members], None] = lambda _: None,
        empty: Callable[[], bool] = lambda: True,
        hurry: Iterable[int] = (),
        *,
        tidies: bool = False,
        whole_groups: bool = True,
    ) -> None:
        self._find = find
        self._leader = leader
        self._note = note
        self._empty = empty
        self._hurry = tuple(hurry)
        self._tidies = tidies
        self._whole_groups = whole_groups
        self._names: dict[Identity, str] = {}
        self._sent: dict[Identity, How] = {}
        self._begin = time.monotonic()
        self._new_look = self._begin

    def run(self, grace: float, patience: float) -> Outcome:
        """Climb the ladder; returns when every process has ended, or after SIGKILL had `KILL_LIMIT` seconds."""
        alive = self._look()
        if self._leader in _identities(alive) and grace > 0:
            alive = self._politely(alive, grace, patience)
        outcome = self._outcome(self._kill(alive))
        if not outcome.left and not self._empty():
            return outcome._replace(
                left=[[NOBODY_KNOWN, 0, "a process that cannot be seen", How.SIGKILL.value]]
            )
        return outcome

    def _politely(self, alive: Members, grace: float, patience: float) -> Members:
        essential = {one.identity for one in alive if one.identity == self._leader or _is_engine(one)}
        self._terminate(alive)
        again: float | None = self._begin + SECOND_SIGTERM
        rest_since: float | None = None
        hurried = False
        while alive and not hurried:
            now = time.monotonic()
            limit = self._begin + grace
            if rest_since is None and self._is_rest(alive):
                rest_since = now
            if rest_since is not None:
                limit = min(limit, rest_since + LINGER)
            if essential <= _identities(alive):  # no effect yet
                limit = min(limit, self._begin + patience)
                if again is not None and now >= again:
                    alive = self._look()
                    self._terminate(alive)
                    again = None
            if now >= limit:
                alive = self._look()
                if rest_since is None or self._is_rest(alive) or now >= self._begin + grace:
                    return alive
                rest_since = None  # an engine has come that was not known
                continue
            hurried = pidfd.wait_for_any(_identities(alive), min(LOOK, limit - now), also=self._hurry)
            alive = self._look_again(alive)
        return self._look() if alive else alive

    def _is_rest(self, alive: Members) -> bool:
        """Whether politeness is over: no engine is left, or no leader who would end the engines."""
        return self._leader not in _identities(alive) or not any(map(_is_engine, alive))

    def _terminate(self, alive: Members) -> None:
        self._note(alive)
        if self._leader is not None and pidfd.send(self._leader, signal.SIGTERM):
            self._sent[self._leader] = How.SIGTERM

    def _kill(self, alive: Members) -> Members:
        limit = time.monotonic() + KILL_LIMIT
        while (alive or not self._empty()) and time.monotonic() < limit:
            victims = self._victims(alive)
            if alive and not victims:  # nothing but trackers
                for one in alive:  # a guard that was killed may have stopped it
                    pidfd.send(one.identity, signal.SIGCONT)
                pidfd.wait_for_all(_identities(alive), TIDY_LIMIT)
                self._tidies = False
                alive = self._look()
                continue
            # Stopped first, none of them can fork while the others are being killed.
            stopped = [one for one in victims if pidfd.send(one.identity, signal.SIGSTOP)]
            self._note(self._look())
            if self._whole_groups and not self._tidies:
                _kill_groups(stopped)
            else:
                victims = self._stop_newcomers(victims, limit)
            for one in victims:
                pidfd.send(one.identity, signal.SIGKILL)
            self._sent.update(dict.fromkeys(_identities(victims), How.SIGKILL))
            pidfd.wait_for_all(_identities(victims), min(LOOK, limit - time.monotonic()))
            alive = self._look()
        return alive

    def _victims(self, alive: Members) -> Members:
        """Those to be killed now."""
        if not self._tidies:
            return alive
        return [one for one in alive if RESOURCE_TRACKER not in self._names.get(one.identity, "")]

    def _stop_newcomers(self, stopped: Members, limit: float) -> Members:
        """Stop what was forked between the look and the stop as well, until a look finds nobody new."""
        while time.monotonic() < limit:
            alive = self._victims(self._look())
            new = _identities(alive) - _identities(stopped)
            if not new:
                return alive
            for identity in new:
                pidfd.send(identity, signal.SIGSTOP)
            stopped = alive
        return stopped

    def _look(self) -> Members:
        alive = self._find()
        self._new_look = time.monotonic() + NEW_LOOK
        # The first name is kept: one that is ending has lost its title.
        self._names.update(
            {one.identity: shown_name(one) for one in alive if one.identity not in self._names}
        )
        return alive

    def _look_again(self, alive: Members) -> Members:
        """Those that live still. For new ones it is looked from time to time, and when no other is left."""
        left = [now for one in alive if (now := processes.living(one.identity))]
        return left if left and time.monotonic() < self._new_look else self._look()

    def _outcome(self, left: Members) -> Outcome:
        def row(identity: Identity) -> list[Any]:
            how = self._sent.get(identity, How.ITSELF)
            return [identity.pid, identity.start, self._names[identity], how.value]

        remaining = _identities(left)
        return Outcome(
            ended=[row(identity) for identity in self._names if identity not in remaining],
            left=[row(identity) for identity in remaining],
            seconds=time.monotonic() - self._begin,
        )


def _kill_groups(stopped: Members) -> None:
    """A group is killed as a whole, with what was forked since the look.

    Its number is ours while one of its members, stopped, is there.
    """
    for group in {one.group for one in stopped} - {os.getpgrp()}:
        with contextlib.suppress(OSError):
            os.killpg(group, signal.SIGKILL)


def _identities(members: Members) -> set[Identity]:
    return {one.identity for one in members}


def _is_engine(one: Process) -> bool:
    name = shown_name(one)
    return any(part in name for part in ENGINE_TITLES)
