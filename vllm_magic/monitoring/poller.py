"""The thread of the sampler: it polls servers and GPUs once a second, as long as there are targets.

If there are more than `TURN` servers, so many are polled each second, in turn; the cost does not grow with the rest. A
server whose state changes is polled at that moment, so that its curve has an edge there. An asyncio loop waits for all
servers side by side, each of which a thread asks; another thread (`gpu.background_probe`) asks the driver. None of them
delays the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.errors import RequestFailed
from vllm_magic.gpu.background_probe import BackgroundProbe
from vllm_magic.gpu.usage import GpuUsage, measure
from vllm_magic.lifecycle.status import ServerState
from vllm_magic.linux.ownership import Ownership
from vllm_magic.plotting.timeseries import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vllm_magic.engine.client.metrics import Activity
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.server.run import ServerRun

    Targets = Callable[[], Mapping[ServerRun, "Target"] | None]
    Publish = Callable[[Snapshot | None, Mapping[int, str]], None]

PERIOD = 1.0  # seconds between two rounds
TURN = 20  # servers in one round
END_LIMIT = 1.0  # seconds for the threads to end
SHORTEST = 0.25  # seconds between two rounds if a state has changed
LIMIT = 1.0  # seconds for a server's answer
GPU_LIMIT = 0.9  # seconds for which the driver may hold a sample up
STALE = 10.0  # seconds for which the last snapshot of the GPUs counts while the driver is slow
SPARE = 16  # file descriptors that must be free; a loop takes three


@dataclass
class Target:
    """A server that is polled.

    Attributes:
        looked: when it was polled last, by `time.monotonic`; 0 before that.
        last: when it last answered, by `time.monotonic`, and its counters then.
        state: its state as the sampler was told of it.
        over_since: since when it is over, by `time.monotonic`; None while it is not.
    """

    looked: float = 0.0
    last: tuple[float, Activity] | None = None
    state: ServerState = ServerState.STARTING
    over_since: float | None = None


class Poller(threading.Thread):
    """The thread: one round a second, until there are no targets any more.

    Other threads call only `stir`, `end` and `join`.

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
        self._background_probe = BackgroundProbe(probe)
        self._ownership = Ownership()
        self._looking: asyncio.Future[Snapshot] | None = None
        self._asking: dict[ServerRun, asyncio.Future[Activity | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._stirred = asyncio.Event()
        self._turned: dict[ServerRun, None] = {}  # the servers whose state has changed since the last round

    def stir(self, server: ServerRun) -> None:
        """Poll this server now: its state has changed. Any thread may call it."""
        self._call(self._turn_to, server)

    def end(self) -> None:
        """End the thread, and break off what it waits for. Any thread may call it."""
        self._call(self._ended.set)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: nothing is under way
                loop.call_soon_threadsafe(function, *arguments)

    def join(self, timeout: float | None = END_LIMIT) -> None:
        """Wait for the end of the threads, ``timeout`` seconds at most."""
        super().join(timeout)
        self._background_probe.close(END_LIMIT)

    def run(self) -> None:
        """The thread's life."""
        if not _has_descriptors():
            return
        self._loop = loop = asyncio.new_event_loop()  # and not asyncio.run, which some notebooks patch
        try:
            with ThreadPoolExecutor(TURN, "vllm-magic sampler: servers") as asking:
                loop.set_default_executor(asking)
                loop.run_until_complete(self._look_on(loop))
        finally:
            self._background_probe.close(0.0)
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

    def _turn(self, servers: Mapping[ServerRun, Target]) -> list[ServerRun]:
        """Return the servers to poll now: those whose state has changed, then those that were polled longest ago."""
        changed, self._turned = self._turned, {}
        order = [*changed, *sorted(servers, key=lambda server: servers[server].looked)]
        chosen = [server for server in dict.fromkeys(order) if server in servers][: max(TURN, len(changed))]
        for server in chosen:
            servers[server].looked = time.monotonic()
        return chosen

    async def _round(self, servers: Mapping[ServerRun, Target]) -> None:
        looking = asyncio.ensure_future(self._look_at_gpus(servers))
        samples = (self._sample(server, servers[server], looking) for server in self._turn(servers))
        # A fault in one sample does not end the others.
        await asyncio.gather(looking, *samples, return_exceptions=True)
        if not servers:
            self._publish(self._latest, self._attribution)

    async def _look_at_gpus(self, servers: Mapping[ServerRun, Target]) -> GpuUsage:
        """Return the use of the GPUs; an empty one while the driver is slow. A late answer counts for the next round."""
        try:
            self._looking = looking = self._looking or asyncio.wrap_future(self._background_probe.request())
            if not (await asyncio.wait({looking}, timeout=GPU_LIMIT))[0]:
                return GpuUsage()
            self._looking = None
            now = looking.result()
        except (OSError, RuntimeError):
            return GpuUsage()
        names = {leader: server.name for server in servers if (leader := server.leader)}
        listed = {process.pid for gpu in now.gpus for process in gpu.processes or ()}
        leaders = self._ownership.leaders_of(listed, names)
        if now.gpus or self._latest is None or now.taken - self._latest.taken > STALE:
            self._latest = now
        self._attribution = {pid: names[one] for pid, one in leaders.items() if one in names}
        return measure(now.gpus, leaders) if time.monotonic() - now.taken < 2 * PERIOD else GpuUsage()

    async def _sample(self, server: ServerRun, target: Target, looking: asyncio.Task[GpuUsage]) -> None:
        answered = await self._ask(server) if server.state is ServerState.READY else None
        now = time.monotonic()
        seen = await asyncio.shield(looking)
        prompt_rate = generation_rate = None
        if answered and target.last:
            then, before = target.last
            prompt_rate = max(0.0, (answered.prompt_tokens - before.prompt_tokens) / (now - then))
            generation_rate = max(0.0, (answered.generation_tokens - before.generation_tokens) / (now - then))
        if answered:
            target.last = now, answered
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

    async def _ask(self, server: ServerRun) -> Activity | None:
        try:
            asking = asyncio.get_running_loop().run_in_executor(None, _activity, server)
        except RuntimeError:  # can't start new thread
            return None
        self._asking[server] = asking
        try:
            await asyncio.wait({asking}, timeout=LIMIT)
            answered = asking.done() and not asking.cancelled() and asking.exception() is None
            return asking.result() if answered else None
        finally:
            asking.cancel()
            del self._asking[server]

    def _turn_to(self, server: ServerRun) -> None:
        self._turned[server] = None
        if server in self._asking and server.state is not ServerState.READY:
            self._asking[server].cancel()
        self._stirred.set()


def _activity(server: ServerRun) -> Activity | None:
    """The requests and tokens of a server; None where it does not tell, or another program listens on its port."""
    try:
        return server.connector.api(LIMIT).activity()
    except RequestFailed:
        return None


def _has_descriptors() -> bool:
    """Whether there are descriptors for an event loop: without them asyncio prints a complaint that nobody can catch."""
    with contextlib.ExitStack() as spare:
        try:
            for _ in range(SPARE):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True
