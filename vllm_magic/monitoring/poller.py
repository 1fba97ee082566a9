"""The thread of the sampler: it polls servers and GPUs once a second.

The thread runs an asyncio loop. Each server is asked in a thread of a pool, and `gpu.background_probe` asks the driver in
another thread, so that neither a slow server nor a slow driver delays the samples of the other servers.

At most `PER_ROUND` servers are polled each second. If there are more, they take turns, and the cost stays the same. When
the state of a server changes, the next round begins early and polls that server, so that its curve has a point at that time.
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

PERIOD = 1.0  # seconds from the beginning of a round to the beginning of the next
SHORTEST_PERIOD = 0.25  # the same after a change of state, in seconds
PER_ROUND = 20  # servers polled in one round
END_LIMIT = 1.0  # seconds to wait for the end of the threads
ANSWER_LIMIT = 1.0  # seconds to wait for the counters of a server
GPU_LIMIT = 0.9  # seconds to wait for the driver
NO_GPUS_LIMIT = 10.0  # seconds for which the last snapshot with GPUs is published if the driver reports none
FREE_DESCRIPTORS = 16  # file descriptors that must be free; an asyncio loop uses three


@dataclass
class Target:
    """The data about a polled server. All times are by `time.monotonic`.

    Attributes:
        polled_at: the time of the last poll; 0 before the first poll.
        last_answer: the time of the server's last answer, and its counters then; None before the first answer.
        state: the state of the server at the last call of `Sampler.note_change`.
        over_since: the time at which the poller first saw that the server has ended; None before that.
    """

    polled_at: float = 0.0
    last_answer: tuple[float, Activity] | None = None
    state: ServerState = ServerState.STARTING
    over_since: float | None = None


class Poller(threading.Thread):
    """Polls the servers in rounds. Other threads call only `poll_soon`, `end` and `join`.

    Args:
        probe: reads the GPUs.
        targets: returns the servers to poll in the next round; None ends the thread.
        publish: called after each sample, and after a round without servers, with the last snapshot of the GPUs, and the
            name of the server of each process that the driver lists, by pid.
    """

    def __init__(self, probe: Probe, targets: Targets, publish: Publish) -> None:
        super().__init__(name="vllm-magic sampler", daemon=True)
        self._targets = targets
        self._publish = publish
        self._latest: Snapshot | None = None
        self._attribution: Mapping[int, str] = {}
        self._background_probe = BackgroundProbe(probe)
        self._ownership = Ownership()
        self._gpu_request: asyncio.Future[Snapshot] | None = None
        self._server_requests: dict[ServerRun, asyncio.Future[Activity | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end_requested = asyncio.Event()
        self._state_changed = asyncio.Event()
        # The servers whose state has changed since the last round, in the order of the changes.
        self._changed_servers: dict[ServerRun, None] = {}

    def poll_soon(self, server: ServerRun) -> None:
        """Poll this server after the current round, since its state has changed. Any thread may call this."""
        self._call(self._note_change, server)

    def end(self) -> None:
        """End the thread without waiting for requests under way. Any thread may call this."""
        self._call(self._end_requested.set)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(function, *arguments)

    def join(self, timeout: float | None = END_LIMIT) -> None:
        """Wait for the end of this thread, at most ``timeout`` seconds, and for that of the background probe."""
        super().join(timeout)
        self._background_probe.close(END_LIMIT)

    def run(self) -> None:
        """Run the asyncio loop."""
        if not _has_free_descriptors():
            return
        self._loop = loop = asyncio.new_event_loop()  # not `asyncio.run`, which nest_asyncio replaces
        try:
            with ThreadPoolExecutor(PER_ROUND, "vllm-magic sampler: servers") as pool:
                loop.set_default_executor(pool)
                loop.run_until_complete(self._run_rounds(loop))
        finally:
            self._background_probe.close(0.0)
            loop.close()

    async def _run_rounds(self, loop: asyncio.AbstractEventLoop) -> None:
        end = asyncio.ensure_future(self._end_requested.wait())
        while not end.done() and (targets := self._targets()) is not None:
            began = loop.time()
            self._state_changed.clear()
            round_ = asyncio.ensure_future(self._poll(targets))
            await asyncio.wait({round_, end}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({end}, timeout=max(0.0, began + SHORTEST_PERIOD - loop.time()))
            state_change = asyncio.ensure_future(self._state_changed.wait())
            rest = max(0.0, began + PERIOD - loop.time())
            await asyncio.wait({end, state_change}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
            state_change.cancel()
        if self._gpu_request:
            self._gpu_request.cancel()
        for task in (unfinished := asyncio.all_tasks() - {asyncio.current_task()}):
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)

    async def _poll(self, targets: Mapping[ServerRun, Target]) -> None:
        """Run one round."""
        gpu_usage = asyncio.ensure_future(self._read_gpu_usage(targets))
        samples = (self._sample(server, targets[server], gpu_usage) for server in self._choose(targets))
        # An exception in one sample does not end the others.
        await asyncio.gather(gpu_usage, *samples, return_exceptions=True)
        if not targets:
            self._publish(self._latest, self._attribution)

    def _choose(self, targets: Mapping[ServerRun, Target]) -> list[ServerRun]:
        """Return the servers of this round: first the servers whose state has changed, then those with the oldest poll."""
        changed, self._changed_servers = self._changed_servers, {}
        order = [*changed, *sorted(targets, key=lambda server: targets[server].polled_at)]
        chosen = [server for server in dict.fromkeys(order) if server in targets]
        del chosen[max(PER_ROUND, len(changed)) :]
        for server in chosen:
            targets[server].polled_at = time.monotonic()
        return chosen

    async def _read_gpu_usage(self, targets: Mapping[ServerRun, Target]) -> GpuUsage:
        """Return the memory in use on the GPUs; an empty `GpuUsage` if the driver is slow or cannot be asked.

        The next round uses an answer that comes late.
        """
        try:
            request = self._gpu_request or asyncio.wrap_future(self._background_probe.request())
            self._gpu_request = request
            if not (await asyncio.wait({request}, timeout=GPU_LIMIT))[0]:
                return GpuUsage()
            self._gpu_request = None
            snapshot = request.result()
        except (OSError, RuntimeError):
            return GpuUsage()
        names = {leader: server.name for server in targets if (leader := server.leader)}
        listed = {process.pid for gpu in snapshot.gpus for process in gpu.processes or ()}
        leaders = self._ownership.leaders_of(listed, names)
        if snapshot.gpus or self._latest is None or snapshot.taken - self._latest.taken > NO_GPUS_LIMIT:
            self._latest = snapshot
        self._attribution = {pid: names[leader] for pid, leader in leaders.items() if leader in names}
        is_recent = time.monotonic() - snapshot.taken < 2 * PERIOD
        return measure(snapshot.gpus, leaders) if is_recent else GpuUsage()

    async def _sample(self, server: ServerRun, target: Target, gpu_usage: asyncio.Task[GpuUsage]) -> None:
        """Add a sample to the curve of a server."""
        activity = await self._activity(server) if server.state is ServerState.READY else None
        now = time.monotonic()
        usage = await asyncio.shield(gpu_usage)
        prompt_rate = generation_rate = None
        if activity and target.last_answer:
            answered_at, last = target.last_answer
            seconds = now - answered_at
            prompt_rate = max(0.0, (activity.prompt_tokens - last.prompt_tokens) / seconds)
            generation_rate = max(0.0, (activity.generation_tokens - last.generation_tokens) / seconds)
        if activity:
            target.last_answer = now, activity
        server.curve.add(
            Sample(
                at=time.time(),
                used=usage.used,
                held=usage.held(server.leader),
                running=activity.running if activity else None,
                waiting=activity.waiting if activity else None,
                prompt_rate=prompt_rate,
                generation_rate=generation_rate,
            )
        )
        self._publish(self._latest, self._attribution)

    async def _activity(self, server: ServerRun) -> Activity | None:
        """Return the counters of a server; None if it does not answer in time, or its state changes meanwhile."""
        try:
            request = asyncio.get_running_loop().run_in_executor(None, _read_activity, server)
        except RuntimeError:  # can't start new thread
            return None
        self._server_requests[server] = request
        try:
            await asyncio.wait({request}, timeout=ANSWER_LIMIT)
            answered = request.done() and not request.cancelled() and request.exception() is None
            return request.result() if answered else None
        finally:
            request.cancel()
            del self._server_requests[server]

    def _note_change(self, server: ServerRun) -> None:
        self._changed_servers[server] = None
        if server in self._server_requests and server.state is not ServerState.READY:
            self._server_requests[server].cancel()
        self._state_changed.set()


def _read_activity(server: ServerRun) -> Activity | None:
    """Request the counters of a server, and return them; None if it reports none, or another program has its port."""
    try:
        return server.connector.api(ANSWER_LIMIT).activity()
    except RequestFailed:
        return None


def _has_free_descriptors() -> bool:
    """Whether `FREE_DESCRIPTORS` file descriptors are free. Without them, asyncio prints a warning that cannot be caught."""
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(FREE_DESCRIPTORS):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
    return True
