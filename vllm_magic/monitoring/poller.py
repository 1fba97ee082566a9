"""The rounds of the sampler: looks at servers and GPUs once a second, for as long as that is wanted.

Of more than `TURN` servers that many are looked at each second, in turn, so that the cost does not grow any more. A
server that comes to another state is looked at in that moment, so that its curve has edges where they were. One
thread with an asyncio loop asks all servers side by side; another one (`gpu.background_probe`) asks the driver, so neither of them
can hold the others up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.client import server_load
from vllm_magic.gpu.background_probe import Eyes
from vllm_magic.gpu.usage import Sight, see
from vllm_magic.linux.ownership import Kin
from vllm_magic.plotting.timeseries import Sample
from vllm_magic.server.server import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.client.server_load import Vitals
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.server.server import Server

    Targets = Callable[[], Mapping[Server, "Memory"] | None]
    Publish = Callable[[Snapshot | None, Mapping[int, str]], None]

PERIOD = 1.0  # seconds between two looks
TURN = 20  # servers in one look
END_LIMIT = 1.0  # seconds for the threads to end
SHORTEST = 0.25  # the same, where something has changed
LIMIT = 1.0  # seconds for a server's answer
GPU_LIMIT = 0.9  # seconds for which the driver may hold a sample up
STALE = 10.0  # seconds for which the last sight of the GPUs counts while the driver is slow
SPARE = 16  # file descriptors that must be free; a loop takes three


@dataclass
class Memory:
    """What is known of a followed server: its counters at the last look that it answered, its state, since when it is over.

    ``looked`` is when it was looked at last, by `time.monotonic`; 0 before that.
    """

    looked: float = 0.0
    last: tuple[float, Vitals] | None = None
    state: ServerState = ServerState.STARTING
    over_since: float | None = None


class Rounds(threading.Thread):
    """The thread: a round each second, until there are no targets any more.

    All but `stir`, `end` and `join` is called in it.

    Args:
        probe: looks at the GPUs.
        targets: returns the servers to look at in the next round; None to end the thread.
        publish: called with the GPUs as they were seen last, and the server's name for each pid of a server's process that
            the driver lists; after each sample, and after each round without servers.
    """

    def __init__(self, probe: Probe, targets: Targets, publish: Publish) -> None:
        super().__init__(name="vllm-magic sampler", daemon=True)
        self._targets = targets
        self._publish = publish
        self._latest: Snapshot | None = None
        self._attribution: Mapping[int, str] = {}
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
        while not ended.done() and (wanted := self._targets()) is not None:
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

    def _turn(self, servers: Mapping[Server, Memory]) -> list[Server]:
        """Those that are looked at now: who has changed, then those that were looked at longest ago."""
        changed, self._turned = self._turned, {}
        order = [*changed, *sorted(servers, key=lambda server: servers[server].looked)]
        chosen = [server for server in dict.fromkeys(order) if server in servers][: max(TURN, len(changed))]
        for server in chosen:
            servers[server].looked = time.monotonic()
        return chosen

    async def _round(self, servers: Mapping[Server, Memory]) -> None:
        looking = asyncio.ensure_future(self._look_at_gpus(servers))
        samples = (self._sample(server, servers[server], looking) for server in self._turn(servers))
        # A fault of one look is no end of the others.
        await asyncio.gather(looking, *samples, return_exceptions=True)
        if not servers:
            self._publish(self._latest, self._attribution)

    async def _look_at_gpus(self, servers: Mapping[Server, Memory]) -> Sight:
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
        if now.gpus or self._latest is None or now.taken - self._latest.taken > STALE:
            self._latest = now
        self._attribution = {pid: names[one] for pid, one in leaders.items() if one in names}
        return see(now.gpus, leaders) if time.monotonic() - now.taken < 2 * PERIOD else Sight()

    async def _sample(self, server: Server, memory: Memory, looking: asyncio.Task[Sight]) -> None:
        answered = await self._ask(server) if server.state is ServerState.READY else None
        now = time.monotonic()
        seen = await asyncio.shield(looking)
        prompt_rate = generation_rate = None
        if answered and memory.last:
            then, before = memory.last
            prompt_rate = max(0.0, (answered.prompt_tokens - before.prompt_tokens) / (now - then))
            generation_rate = max(0.0, (answered.generation_tokens - before.generation_tokens) / (now - then))
        if answered:
            memory.last = now, answered
        server.curve.add(
            Sample(
                at=time.time(),
                used=seen.used,
                held=seen.held(server.leader),
                running=answered.running if answered else None,
                waiting=answered.waiting if answered else None,
                prompt_rate=prompt_rate,
                generation_rate=generation_rate,
            )
        )
        self._publish(self._latest, self._attribution)

    async def _ask(self, server: Server) -> Vitals | None:
        task = self._asking[server] = asyncio.ensure_future(server_load.look(server.url))
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
