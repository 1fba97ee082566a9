"""The stop ladder: end every process of a server, politely as long as that has an effect.

What vLLM does with signals (measured on 0.32.0) shapes the rungs:

- SIGTERM to an idle leader ends everything in half a second;
- with open streams the engine goes at once, and then the API server waits for its connections for ever;
- the first SIGTERM during the engine's initialisation is swallowed, a second one takes seconds;
- SIGTERM to the whole group makes the leader hang, so only the leader gets it.

So: SIGTERM to the leader. Once no engine is left the VRAM is back, and the rest gets `LINGER` seconds more. If
nothing at all ended, SIGTERM again, and when ``patience`` is over SIGKILL. In any case SIGKILL after ``grace``.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.guard.protocol import How
from vllm_magic.linux import pidfd
from vllm_magic.linux.processes import Identity, title

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LINGER = 1.0  # seconds for what is left when the engine is gone
SECOND_SIGTERM = 1.0  # seconds without any effect before SIGTERM is sent again
KILL_LIMIT = 15.0  # seconds; what SIGKILL has not ended by then is stuck in the kernel (state D)
LOOK = 0.25  # seconds between looks for processes that are new

ENGINE_TITLES = ("::EngineCore", "::Worker")

Members = dict[Identity, str]


class Outcome(NamedTuple):
    """Who ended and how, and who would not: each a list of [pid, start, name, how]."""

    ended: list[list[object]]
    left: list[list[object]]
    seconds: float


class Ladder:
    """One release.

    Args:
        find: gives the living processes of the server, each with its name; called again and again.
        leader: the process that SIGTERM goes to, or None when it is gone.
        note: called before each signal that may end something, and once all is stopped for the kill: a server
            that is still starting makes new shared memory until then.
        reap: called after each look, to collect zombies.
        hurry: descriptors which, once readable, end the politeness: the kernel died, or asked again.
    """

    def __init__(
        self,
        find: Callable[[], Members],
        leader: Identity | None,
        note: Callable[[], None] = lambda: None,
        reap: Callable[[], None] = lambda: None,
        hurry: Iterable[int] = (),
    ) -> None:
        self._find = find
        self._leader = leader
        self._note = note
        self._reap = reap
        self._hurry = tuple(hurry)
        self._seen: Members = {}
        self._sent: dict[Identity, How] = {}
        self._begin = time.monotonic()

    def run(self, grace: float, patience: float) -> Outcome:
        """Climb the ladder; returns when every process has ended, or after SIGKILL had `KILL_LIMIT` seconds."""
        alive = self._look()
        if self._leader in alive and grace > 0:
            alive = self._politely(alive, grace, patience)
        if alive:
            alive = self._kill(alive)
        return self._outcome(alive)

    def _politely(self, alive: Members, grace: float, patience: float) -> Members:
        essential = {identity for identity in alive if identity == self._leader or _is_engine(identity)}
        self._terminate()
        again: float | None = self._begin + SECOND_SIGTERM
        without_engine: float | None = None
        hurried = False
        while alive and not hurried:
            now = time.monotonic()
            limit = self._begin + grace
            if without_engine is None and not any(_is_engine(identity) for identity in alive):
                without_engine = now
            if without_engine is not None:
                limit = min(limit, without_engine + LINGER)
            if essential <= alive.keys():  # no effect yet
                limit = min(limit, self._begin + patience)
                if again is not None and now >= again:
                    self._terminate()
                    again = None
            if now >= limit:
                break
            hurried = pidfd.wait_for_any(alive, min(LOOK, limit - now), also=self._hurry)
            alive = self._look()
        return alive

    def _terminate(self) -> None:
        self._note()
        if self._leader is not None and pidfd.send(self._leader, signal.SIGTERM):
            self._sent[self._leader] = How.SIGTERM

    def _kill(self, alive: Members) -> Members:
        limit = time.monotonic() + KILL_LIMIT
        while alive and time.monotonic() < limit:
            # Stopped first, none of them can fork while the others are being killed.
            for identity in alive:
                pidfd.send(identity, signal.SIGSTOP)
            self._note()
            for identity in alive:
                pidfd.send(identity, signal.SIGKILL)
            self._sent.update(dict.fromkeys(alive, How.SIGKILL))
            pidfd.wait_for_all(alive, min(LOOK, limit - time.monotonic()))
            alive = self._look()
        return alive

    def _look(self) -> Members:
        alive = self._find()
        self._seen.update(alive)
        self._reap()
        return alive

    def _outcome(self, left: Members) -> Outcome:
        def row(identity: Identity) -> list[object]:
            how = self._sent.get(identity, How.ITSELF)
            return [identity.pid, identity.start, self._seen[identity], how.value]

        return Outcome(
            ended=[row(identity) for identity in self._seen if identity not in left],
            left=[row(identity) for identity in left],
            seconds=time.monotonic() - self._begin,
        )


def _is_engine(identity: Identity) -> bool:
    return any(part in title(identity.pid) for part in ENGINE_TITLES)
