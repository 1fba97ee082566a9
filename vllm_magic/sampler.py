"""Sees each second what this kernel's servers hold and do, for their curves and for whoever watches.

Of more than `TURN` servers that many are looked at each second, in turn, so that the cost does not grow any more. A
server that comes to another state is looked at in that moment, so that its curve has edges where they were. One
thread with an asyncio loop asks all servers side by side; another one (`gpu.eyes`) asks the driver, so neither of them
can hold the others up. Both begin with the first server, or with the first who watches, and end `LINGER` seconds after
the last server is over while nobody watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.curve import Sample
from vllm_magic.engine import vitals
from vllm_magic.gpu.eyes import Eyes
from vllm_magic.gpu.sight import Sight, see
from vllm_magic.linux.kin import Kin
from vllm_magic.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.vitals import Vitals
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.server import Server

PERIOD = 1.0  # seconds between two looks
TURN = 20  # servers in one look
SHORTEST = 0.25  # the same, where something has changed
LIMIT = 1.0  # seconds for a server's answer
GPU_LIMIT = 0.9  # seconds for which the driver may hold a sample up
FRESH = 1.5  # seconds for which a sight of the GPUs is as good as a new one, if no server has changed since
STALE = 10.0  # seconds for which the last sight of the GPUs counts while the driver is slow
LINGER = 10.0  # seconds for which a server that is over is looked at: its VRAM is seen to come back
END_LIMIT = 1.0  # seconds for the threads to end
SPARE = 16  # file descriptors that must be free; a loop takes three


@dataclass
class _Memory:
    """What is known of a followed server: its counters at the last look that it answered, its state, since when it is over.

    ``looked`` is when it was looked at last, by `time.monotonic`; 0 before that.
    """

    looked: float = 0.0
    last: tuple[float, Vitals] | None = None
    state: ServerState = ServerState.STARTING
    over_since: float | None = None


class Sampler:
    """One for each manager. Safe to use from any thread; its lock is held for moments only, and no other one below it.

    Args:
        probe: looks at the GPUs.

    Attributes:
        latest: the GPUs as they were seen last, at most `STALE` seconds before; None before the first look.
        attribution: each process that the driver lists and that belongs to a followed server: its pid, and the server's name.
    """

    def __init__(self, probe: Probe) -> None:
        self.latest: Snapshot | None = None
        self.attribution: Mapping[int, str] = {}
        self._probe = probe
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards all below
        self._followed: dict[Server, _Memory] = {}
        self._watchers: dict[object, Callable[[], None]] = {}
        self._rounds: _Rounds | None = None
        self._changed = 0.0  # when a server came to another state, by `time.monotonic`

    @property
    def fresh(self) -> Snapshot | None:
        """The GPUs as they were seen in this moment, more or less, and in these states of all servers; else None."""
        seen, least = self.latest, max(self._changed, time.monotonic() - FRESH)
        return seen if seen and seen.gpus and seen.taken > least else None

    def follow(self, server: Server) -> None:
        """Look at this server until it is over, and some seconds more."""
        with self._lock:
            self._followed.setdefault(server, _Memory())
            self._begin()

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback``, in whatever thread, after each look and each change in a server's life.

        Returns:
            What ends that. Until then the looks go on, also without servers.
        """
        token = object()
        with self._lock:
            self._watchers[token] = callback
            self._begin()

        def end() -> None:
            with self._lock:
                self._watchers.pop(token, None)

        return end

    def heard(self, server: Server) -> None:
        """Something changed in this server's life: a look at one that is not ready any more is broken off."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            rounds, memory, state = self._rounds, self._followed.get(server), server.state
            changed = memory is not None and memory.state is not state
            if changed:
                self._changed = time.monotonic()
            if memory is not None:
                memory.state = state
                self._begin()  # if there was no thread to be had so far
        if rounds and changed:
            rounds.stir(server)
        self.tell()

    def tell(self) -> None:
        """Call those who watch."""
        with self._lock:
            watchers = list(self._watchers.values())
        for callback in watchers:
            with contextlib.suppress(Exception):  # a fault of theirs is none of ours
                callback()

    def close(self) -> None:
        """End the threads, and a look at the GPUs that is under way; they come back for the next server, or who watches."""
        if os.getpid() != self._pid:  # a forked copy has no thread
            return
        with self._lock:
            rounds, self._rounds = self._rounds, None
            self._followed.clear()
        if rounds:
            rounds.end()
            self._probe.close()
            rounds.join()

    def wanted(self, rounds: _Rounds) -> dict[Server, _Memory] | None:
        """Whom to look at now; None once these rounds are to end."""
        now = time.monotonic()
        with self._lock:
            for server, memory in list(self._followed.items()):
                if not server.state.over:
                    memory.over_since = None  # its end can be tried again
                elif memory.over_since is None:
                    memory.over_since = now
                elif now - memory.over_since > LINGER:
                    del self._followed[server]
            if self._rounds is not rounds:
                return None
            if not self._followed and not self._watchers:
                self._rounds = None
                return None
            return dict(self._followed)

    def _begin(self) -> None:
        """See that there is a thread; the lock is held."""
        if self._rounds is None or not self._rounds.is_alive():
            rounds = _Rounds(self, self._probe)
            with contextlib.suppress(
                RuntimeError
            ):  # no thread to be had: nothing is seen, and all else works
                rounds.start()
                self._rounds = rounds


class _Rounds(threading.Thread):
    """The thread: a round each second, until the sampler does not want it any more.

    All but `stir`, `end` and `join` is called in it.
    """

    def __init__(self, sampler: Sampler, probe: Probe) -> None:
        super().__init__(name="vllm-magic sampler", daemon=True)
        self._sampler = sampler
        self._eyes = Eyes(probe)
        self._kin = Kin()
        self._looking: asyncio.Future[Snapshot] | None = None
        self._asking: dict[Server, asyncio.Task[Vitals | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._stirred = asyncio.Event()
        self._turned: dict[Server, None] = {}  # who is to be looked at next, whosever turn it is

    def stir(self, server: Server) -> None:
        """This server is in another state now; from any thread."""
        self._call(self._turn_to, server)

    def end(self) -> None:
        """Break off everything, and end; from any thread."""
        self._call(self._ended.set)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: nothing is under way
                loop.call_soon_threadsafe(function, *arguments)

    def join(self, timeout: float | None = END_LIMIT) -> None:
        """Wait for the end of the threads, but not for ever."""
        super().join(timeout)
        self._eyes.close(END_LIMIT)

    def run(self) -> None:
        """The thread's life."""
        if not _has_descriptors():
            return
        self._loop = loop = asyncio.new_event_loop()  # and not asyncio.run, which some notebooks patch
        try:
            loop.run_until_complete(self._look_on(loop))
        finally:
            self._eyes.close(0.0)
            loop.close()

    async def _look_on(self, loop: asyncio.AbstractEventLoop) -> None:
        ended = asyncio.ensure_future(self._ended.wait())
        while not ended.done() and (wanted := self._sampler.wanted(self)) is not None:
            began = loop.time()
            self._stirred.clear()
            looking = asyncio.ensure_future(self._round(wanted))
            await asyncio.wait({looking, ended}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({ended}, timeout=max(0.0, began + SHORTEST - loop.time()))
            stirred = asyncio.ensure_future(self._stirred.wait())
            rest = max(0.0, began + PERIOD - loop.time())
            await asyncio.wait({ended, stirred}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            stirred.cancel()
        if self._looking:
            self._looking.cancel()
        for task in (others := asyncio.all_tasks() - {asyncio.current_task()}):
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # the connections of what was broken off are closed now

    def _turn(self, servers: Mapping[Server, _Memory]) -> list[Server]:
        """Those that are looked at now: who has changed, then those that were looked at longest ago."""
        changed, self._turned = self._turned, {}
        order = [*changed, *sorted(servers, key=lambda server: servers[server].looked)]
        chosen = [server for server in dict.fromkeys(order) if server in servers][: max(TURN, len(changed))]
        for server in chosen:
            servers[server].looked = time.monotonic()
        return chosen

    async def _round(self, servers: Mapping[Server, _Memory]) -> None:
        looking = asyncio.ensure_future(self._look_at_gpus(servers))
        samples = (self._sample(server, servers[server], looking) for server in self._turn(servers))
        # A fault of one look is no end of the others.
        await asyncio.gather(looking, *samples, return_exceptions=True)
        if not servers:
            self._sampler.tell()

    async def _look_at_gpus(self, servers: Mapping[Server, _Memory]) -> Sight:
        """What there is to be seen: nothing while the driver takes its time. A look that is late is the next round's."""
        try:
            self._looking = looking = self._looking or asyncio.wrap_future(self._eyes.look())
            if not (await asyncio.wait({looking}, timeout=GPU_LIMIT))[0]:
                return Sight()
            self._looking = None
            now = looking.result()
        except (OSError, RuntimeError):
            return Sight()
        names = {leader: server.name for server in servers if (leader := server.leader)}
        listed = {process.pid for gpu in now.gpus for process in gpu.processes or ()}
        leaders = self._kin.look(listed, names)
        latest = self._sampler.latest
        if now.gpus or latest is None or now.taken - latest.taken > STALE:
            self._sampler.latest = now
        self._sampler.attribution = {pid: names[one] for pid, one in leaders.items() if one in names}
        return see(now.gpus, leaders) if time.monotonic() - now.taken < 2 * PERIOD else Sight()

    async def _sample(self, server: Server, memory: _Memory, looking: asyncio.Task[Sight]) -> None:
        vitals = await self._ask(server) if server.state is ServerState.READY else None
        now = time.monotonic()
        seen = await asyncio.shield(looking)
        prompt_rate = generation_rate = None
        if vitals and memory.last:
            then, before = memory.last
            prompt_rate = max(0.0, (vitals.prompt_tokens - before.prompt_tokens) / (now - then))
            generation_rate = max(0.0, (vitals.generation_tokens - before.generation_tokens) / (now - then))
        if vitals:
            memory.last = now, vitals
        server.curve.add(
            Sample(
                at=time.time(),
                used=seen.used,
                held=seen.held(server.leader),
                running=vitals.running if vitals else None,
                waiting=vitals.waiting if vitals else None,
                prompt_rate=prompt_rate,
                generation_rate=generation_rate,
            )
        )
        self._sampler.tell()

    async def _ask(self, server: Server) -> Vitals | None:
        task = self._asking[server] = asyncio.ensure_future(vitals.look(server.url))
        try:
            await asyncio.wait({task}, timeout=LIMIT)
            answered = task.done() and not task.cancelled() and task.exception() is None
            return task.result() if answered else None
        finally:
            task.cancel()
            del self._asking[server]

    def _turn_to(self, server: Server) -> None:
        self._turned[server] = None
        if server in self._asking and server.state is not ServerState.READY:
            self._asking[server].cancel()
        self._stirred.set()


def _has_descriptors() -> bool:
    """Whether an event loop can be had: one that cannot get its descriptors complains on stderr, whatever is done."""
    with contextlib.ExitStack() as spare:
        try:
            for _ in range(SPARE):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True
