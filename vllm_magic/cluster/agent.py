"""The leader of a server that runs on a cluster: ``python agent.py JOB``, see the package.

Its output is the job's log, so that who follows the log of a server sees no difference. It ends when the job has ended,
with 0 where that was asked for by SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Behind the standard library, so that nothing in it can stand in for a standard module.
    sys.path[:] = [*sys.path[1:], str(Path(__file__).resolve().parents[2])]

from vllm_magic.cluster import package, placement, teardown, wire
from vllm_magic.cluster.entities import JobStatus
from vllm_magic.cluster.forward import Forwarder
from vllm_magic.cluster.messages import Errand, Order, unpack_errand
from vllm_magic.cluster.placement import Whereabouts
from vllm_magic.cluster.rest import JobUnknownError, Ray
from vllm_magic.errors import ClusterError, ClusterUnreachable, VllmMagicError

if TYPE_CHECKING:
    from vllm_magic.cluster.entities import Job

LOOK = 0.5  # seconds between looks at a job that waits for room
REST = 5.0  # the same at one that runs: its end is mostly known by the last line of its log
SUBMIT_LIMIT = 60.0  # seconds for the cluster to take the job
UNKNOWN = 3  # looks in which the head does not know the job, until that is believed
LAST_WORDS = 2.0  # seconds for the end of its log to arrive
LONGEST_LINE = 2**20  # bytes; of a longer one the pieces are lines
END_LIMIT = (
    120.0  # seconds for a job to end that was asked to; who waits for the agent has less patience, or more
)
# Ray's own SIGKILL comes so many seconds late: the guards on the node do it, and memory may be waited for there
# (guard.ladder.KILL_LIMIT and life.proof.LIMIT).
STOP_WAIT = "100"


class Agent:
    """Stands for one server here. All of it runs in one event loop; what blocks runs in a thread."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._ray = Ray(errand.address)
        self._forwarder = Forwarder(errand.port)
        self._asked = asyncio.Event()
        self._unknown = 0  # looks since the head knew the job
        self._failed = False
        self._lock = threading.Lock()  # guards what is known
        self._where = Whereabouts()
        self._know()

    async def run(self) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked.set)
        await self._submit()
        lease = asyncio.ensure_future(self._renew())
        try:
            node = await self._wait_for_node()
            if node is None:
                return await self._end()
            log = asyncio.ensure_future(asyncio.to_thread(self._copy_log, node, loop))
            code = await self._stay(log)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(log), LAST_WORDS)
            return code
        finally:
            lease.cancel()
            self._forwarder.close()

    async def _submit(self) -> None:
        """Submit the job, and again while that fails and nobody has asked for the end.

        A head that has only just begun has nobody who takes jobs for longer than it waits for that itself
        (WAIT_AVAILABLE_AGENT_TIMEOUT in ray/dashboard/consts.py), and it may have taken one after all.
        """
        deadline, told = time.monotonic() + SUBMIT_LIMIT, False
        while True:
            try:
                return await asyncio.to_thread(self._submit_once)
            except ClusterError as error:
                if await asyncio.to_thread(self._is_known) or self._asked.is_set():
                    return None
                if not isinstance(error, ClusterUnreachable) or time.monotonic() >= deadline:
                    raise
                if not told:
                    told = True
                    _say(f"{error} It is tried again for {SUBMIT_LIMIT:g} s.")
            await self._pause(LOOK)

    def _is_known(self) -> bool:
        with contextlib.suppress(ClusterError):
            return self._ray.job(self._errand.job).id == self._errand.job
        return False

    def _submit_once(self) -> None:
        name = package.name(self._errand.job)
        self._ray.put(name, package.packed())
        self._ray.put(wire.lease(self._errand.job), _stamp())
        self._ray.submit(
            self._errand.job,
            f"exec python3 -m vllm_magic.on_node {self._errand.job}",
            entrypoint_num_gpus=self._errand.gpus,
            metadata={wire.METADATA: self._errand.name},
            runtime_env={
                "working_dir": f"{wire.SCHEME}{name}",
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT, "PYTHONUNBUFFERED": "1"},
            },
        )

    async def _renew(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._ray.put, wire.lease(self._errand.job), _stamp())
                self._tell_reachable(None)
            except VllmMagicError as error:
                self._tell_reachable(error)
            await asyncio.sleep(wire.RENEWAL)

    def _tell_reachable(self, error: VllmMagicError | None) -> None:
        if (error is None) is self._where.reachable:
            return
        if error is None:
            _say("The cluster answers again.")
        else:
            _say(f"{error} The server ends itself where that lasts {wire.LEASE:g} s.")
        self._know(reachable=error is None)

    def _know(self, **changed: Any) -> None:
        """Tell the kernel; a full disk is no reason to end a server."""
        with self._lock, contextlib.suppress(OSError):
            self._where = replace(self._where, **changed)
            placement.write(Path(os.environ["TMPDIR"]), self._where)

    async def _job(self) -> Job | None:
        """The job; None while the cluster does not answer."""
        try:
            job = await asyncio.to_thread(self._ray.job, self._errand.job)
        except JobUnknownError:  # once may be a proxy's answer
            self._unknown += 1
            if self._unknown >= UNKNOWN:
                raise
            return None
        except ClusterUnreachable:
            return None
        self._unknown = 0
        return job

    async def _wait_for_node(self) -> str | None:
        """The node that it got; None where it is to end before that, or has."""
        began, told = time.monotonic(), False
        while not self._asked.is_set():
            job = await self._job()
            if job and job.status.over:
                _say(f"Ray has not started it: {job.message}")
                return None
            if job and job.status is JobStatus.RUNNING and job.node:
                with contextlib.suppress(ClusterUnreachable):
                    await asyncio.to_thread(self._send_order, job.node)
                    return job.node
            if not told and time.monotonic() > began + 10 * LOOK:
                told = True
                _say(f"It waits for room on the cluster ({self._errand.gpus} GPUs).")
            await self._pause(LOOK if time.monotonic() < began + 10 * REST else REST)
        return None

    def _send_order(self, node: str) -> None:
        found = self._ray.node(node)
        self._know(nodes=(found.ip,))
        errand = self._errand
        env = {name: os.environ[name] for name in errand.env if name in os.environ}
        order = Order(errand.model, errand.args, errand.executable, env, found.ip, errand.force, wire.LEASE)
        self._ray.put(wire.order(errand.job), order.packed())
        _say(f"It runs on {found.where}.")

    def _copy_log(self, node: str, loop: asyncio.AbstractEventLoop) -> None:
        """Copy the job's log, but for what is said to this agent, until its last line."""
        seen, rest = 0, b""
        while True:
            position = 0
            for piece in self._ray.follow(self._errand.job, node):
                fresh = piece[max(0, seen - position) :]
                position += len(piece)
                seen = max(seen, position)
                *lines, rest = (rest + fresh).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    if self._copy(line, loop) == wire.RELEASED:
                        return
            with contextlib.suppress(ClusterError):
                if self._ray.job(self._errand.job).status.over:
                    return
            time.sleep(LOOK)

    def _copy(self, line: bytes, loop: asyncio.AbstractEventLoop) -> str:
        """Copy a line of vLLM's, or obey one that is for this agent; what that one is about."""
        said = wire.said(line.decode(errors="replace"))
        if said is None:
            os.write(1, line + b"\n")
            return ""
        if said["said"] == wire.PLACED:
            self._compare(str(said.get("vllm") or ""))
        elif said["said"] == wire.LISTENS:
            to = (self._where.nodes[0], int(said["port"]))
            asyncio.run_coroutine_threadsafe(self._listen(to), loop)
        elif said["said"] in (wire.ENDS, wire.RELEASED):  # who has the port from now on is somebody else
            loop.call_soon_threadsafe(self._forwarder.close)
        return str(said["said"])

    def _compare(self, there: str) -> None:
        here = self._errand.vllm
        if here and there and _release(here) != _release(there):
            caveat = f"its node has vLLM {there}, and this machine {here}"
            _say(f"{self._errand.name}: {caveat}.")
            self._know(caveat=caveat)

    async def _listen(self, to: tuple[str, int]) -> None:
        try:
            await self._forwarder.listen(to)
        except OSError as error:
            _say(f"Port {self._errand.port} cannot be used: {error.strerror}")
            self._failed = True
            self._asked.set()

    async def _stay(self, log: asyncio.Future[None]) -> int:
        """Until the job is over, or its end is asked for; ``log`` is done with the last line of its log."""
        events: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._asked.wait()), log}
        while not self._asked.is_set():
            job = await self._job()
            if job and job.status.over:
                return 1
            if job and job.ray_job and self._errand.gpus == 0:
                await asyncio.to_thread(self._find_workers, job.node, job.ray_job)
            if log.done():  # it is about to end
                await self._pause(LOOK)
            else:
                await asyncio.wait(events, timeout=REST, return_when=asyncio.FIRST_COMPLETED)
        return await self._end()

    def _find_workers(self, own: str | None, ray_job: str) -> None:
        """Know the nodes of an engine that is spread over several, the job's own first."""
        with contextlib.suppress(ClusterError):
            wanted = {own, *(actor.node for actor in self._ray.actors(ray_job) if actor.alive)}
            found = [node for node in self._ray.nodes() if node.id in wanted]
            nodes = tuple(node.ip for node in sorted(found, key=lambda node: (node.id != own, node.ip)))
            if nodes != self._where.nodes:
                self._know(nodes=nodes)

    async def _end(self) -> int:
        """Have the job end. The kernel may be gone, and then there is half a second: what must be said comes first."""
        job = self._errand.job
        with contextlib.suppress(ClusterError):  # who reads this looks for himself, and the lease runs out
            await asyncio.to_thread(self._ray.stop, job)
            await asyncio.to_thread(self._ray.put, wire.order(job), b"")
            await asyncio.to_thread(teardown.wait, self._ray, job, END_LIMIT, END_LIMIT)
        return 0 if self._asked.is_set() and not self._failed else 1

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._asked.wait(), seconds)


def _release(version: str) -> str:
    """Without what says how it was built, "+cpu" or the name of another package."""
    return version.partition(" ")[0].partition("+")[0]


def _stamp() -> bytes:
    return str(time.time_ns()).encode()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, text.encode() + b"\n")


async def _main() -> None:
    try:
        code = await Agent(unpack_errand(os.environ[wire.ERRAND])).run()
    except Exception as error:  # noqa: BLE001 - it is said, and the kernel sees to the job
        _say(str(error) if isinstance(error, VllmMagicError) else f"{type(error).__name__}: {error}")
        code = 1
    os._exit(code)  # asyncio would wait for its threads, and one may wait for a line of the log


if __name__ == "__main__":
    asyncio.run(_main())
