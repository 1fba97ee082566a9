"""The leader of a server that runs on a cluster: ``python agent.py JOB``; see the package.

The agent's output is the job's log, so this server's log looks like any other server's log. The agent ends when the job
has ended; its exit code is 0 if SIGTERM or SIGINT asked for the end.
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
    # Remove this folder from the path, and append the folder of the package, so that no module of ours hides a standard module.
    sys.path[:] = [*sys.path[1:], str(Path(__file__).resolve().parents[2])]

from vllm_magic.cluster import package, placement, teardown, wire
from vllm_magic.cluster.entities import JobStatus
from vllm_magic.cluster.forward import Forwarder
from vllm_magic.cluster.messages import JobSpec, ServeRequest, unpack_job_spec
from vllm_magic.cluster.placement import Placement
from vllm_magic.cluster.rest import JobUnknownError, Ray
from vllm_magic.errors import ClusterError, ClusterUnreachable, VllmMagicError

if TYPE_CHECKING:
    from vllm_magic.cluster.entities import Job

POLL_INTERVAL = 0.5  # seconds between requests for the state of a job that waits for room
LONG_INTERVAL = 5.0  # the same for a running job; usually the last line of its log reports its end earlier
SUBMIT_LIMIT = 60.0  # seconds for the cluster to accept the job
UNKNOWN_ANSWERS = (
    3  # the agent believes the head that it does not know the job after so many such answers in a row
)
LAST_LINES_LIMIT = 2.0  # seconds for the end of the job's log to arrive
LONGEST_LINE = 2**20  # bytes; a longer line is copied in pieces
END_LIMIT = 120.0  # seconds for a job to end after a request to stop; the guards may end the agent earlier
# Seconds after SIGTERM until Ray itself sends SIGKILL. The guards on the node need this time to end the server, and the
# job to wait for its memory (guard.ladder.KILL_LIMIT and release.local_verifier.MEMORY_LIMIT).
STOP_WAIT = "100"


class Agent:
    """Submits the job of one server, and follows it. Everything runs in one event loop; calls that block run in threads."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._ray = Ray(spec.address)
        self._forwarder = Forwarder(spec.port)
        self._stop_request = asyncio.Event()
        self._unknown = 0  # answers in a row that the head does not know the job
        self._failed = False
        self._lock = threading.Lock()  # for `_placement`
        self._placement = Placement()
        self._address = ""  # of the job's node
        self._update()

    async def run(self) -> int:
        """Run the job until its end, and return the exit code of the agent."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_request.set)
        await self._submit()
        lease = asyncio.ensure_future(self._renew())
        try:
            node = await self._wait_for_node()
            if node is None:
                return await self._end()
            log = asyncio.ensure_future(asyncio.to_thread(self._copy_log, node, loop))
            code = await self._wait_for_end(log)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(log), LAST_LINES_LIMIT)
            return code
        finally:
            lease.cancel()
            self._forwarder.close()

    async def _submit(self) -> None:
        """Submit the job; try again for `SUBMIT_LIMIT` seconds while the cluster cannot be reached and no end is requested.

        A head that has just started refuses jobs after a wait of its own (WAIT_AVAILABLE_AGENT_TIMEOUT in
        ray/dashboard/consts.py), and may have accepted the job all the same.

        Raises:
            ClusterError: the cluster refuses the job, or cannot be reached in this time.
        """
        deadline, is_reported = time.monotonic() + SUBMIT_LIMIT, False
        while True:
            try:
                return await asyncio.to_thread(self._submit_once)
            except ClusterError as error:
                if await asyncio.to_thread(self._is_known) or self._stop_request.is_set():
                    return None
                if not isinstance(error, ClusterUnreachable) or time.monotonic() >= deadline:
                    raise
                if not is_reported:
                    is_reported = True
                    _print(f"{error} Trying again for {SUBMIT_LIMIT:g} s.")
            await self._pause(POLL_INTERVAL)

    def _is_known(self) -> bool:
        with contextlib.suppress(ClusterError):
            return self._ray.job(self._spec.job).id == self._spec.job
        return False

    def _submit_once(self) -> None:
        name = package.name(self._spec.job)
        self._ray.put(name, package.packed())
        self._ray.put(wire.lease(self._spec.job), _stamp())
        self._ray.submit(
            self._spec.job,
            f"exec python3 -m vllm_magic.on_node {self._spec.job}",
            entrypoint_num_gpus=self._spec.gpus,
            metadata={wire.METADATA: self._spec.name},
            runtime_env={
                "working_dir": f"{wire.SCHEME}{name}",
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT, "PYTHONUNBUFFERED": "1"},
            },
        )

    async def _renew(self) -> None:
        """Renew the lease of the job again and again, until this is cancelled."""
        while True:
            try:
                await asyncio.to_thread(self._ray.put, wire.lease(self._spec.job), _stamp())
                self._set_reachable(None)
            except VllmMagicError as error:
                self._set_reachable(error)
            await asyncio.sleep(wire.RENEWAL)

    def _set_reachable(self, error: VllmMagicError | None) -> None:
        if (error is None) is self._placement.reachable:
            return
        if error is None:
            _print("The cluster answers again.")
        else:
            _print(f"{error} The server ends itself if that lasts {wire.LEASE:g} s.")
        self._update(reachable=error is None)

    def _update(self, **changed: Any) -> None:
        """Change the placement, and write it for the kernel. An error of the disk is ignored: it must not end the server."""
        with self._lock, contextlib.suppress(OSError):
            self._placement = replace(self._placement, **changed)
            placement.write(Path(os.environ["TMPDIR"]), self._placement)

    async def _job(self) -> Job | None:
        """Return the job; None if the cluster does not answer.

        Raises:
            JobUnknownError: the head has answered `UNKNOWN_ANSWERS` times in a row that it does not know the job.
        """
        try:
            job = await asyncio.to_thread(self._ray.job, self._spec.job)
        except JobUnknownError:  # a single such answer may come from a proxy
            self._unknown += 1
            if self._unknown >= UNKNOWN_ANSWERS:
                raise
            return None
        except ClusterUnreachable:
            return None
        self._unknown = 0
        return job

    async def _wait_for_node(self) -> str | None:
        """Return the id of the job's node; None if the job ends, or its end is requested, before it gets a node."""
        began, is_reported = time.monotonic(), False
        while not self._stop_request.is_set():
            job = await self._job()
            if job and job.status.over:
                _print(f"Ray has not started the job: {job.message}")
                return None
            if job and job.status is JobStatus.RUNNING and job.node:
                with contextlib.suppress(ClusterUnreachable):
                    await asyncio.to_thread(self._send_request, job.node)
                    return job.node
            if not is_reported and time.monotonic() > began + 10 * POLL_INTERVAL:
                is_reported = True
                _print(f"The job waits for room on the cluster ({self._spec.gpus} GPUs).")
            await self._pause(
                POLL_INTERVAL if time.monotonic() < began + 10 * LONG_INTERVAL else LONG_INTERVAL
            )
        return None

    def _send_request(self, node_id: str) -> None:
        """Tell the job on its node which server to start."""
        node = self._ray.node(node_id)
        self._address = node.ip
        self._update(nodes=(node.ip,))
        spec = self._spec
        env = {name: os.environ[name] for name in spec.env if name in os.environ}
        request = ServeRequest(spec.model, spec.args, spec.executable, env, node.ip, spec.force, wire.LEASE)
        self._ray.put(wire.request(spec.job), request.packed())
        _print(f"The job runs on {node.where}.")

    def _copy_log(self, node: str, loop: asyncio.AbstractEventLoop) -> None:
        """Copy the job's log to the output, without the lines for this agent, until its last line."""
        seen, rest = 0, b""
        while True:
            position = 0
            for piece in self._ray.follow(self._spec.job, node):
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
                if self._ray.job(self._spec.job).status.over:
                    return
            time.sleep(POLL_INTERVAL)

    def _copy(self, line: bytes, loop: asyncio.AbstractEventLoop) -> str:
        """Copy a line of vLLM's log, or act on a line for this agent.

        Returns:
            The kind of a line for this agent (see `wire`); "" for any other line.
        """
        content = wire.parse(line.decode(errors="replace"))
        if content is None:
            with contextlib.suppress(OSError):  # a full disk: the lines for this agent are still to come
                os.write(1, line + b"\n")
            return ""
        if content["kind"] == wire.PLACED:
            self._compare_versions(str(content.get("vllm") or ""))
        elif content["kind"] == wire.LISTENS:
            server = (self._address, int(content["port"]))
            asyncio.run_coroutine_threadsafe(self._forward(server), loop)
        elif content["kind"] in (wire.ENDS, wire.RELEASED):
            # From now on another process may take the server's port on the node.
            loop.call_soon_threadsafe(self._forwarder.close)
        return str(content["kind"])

    def _compare_versions(self, there: str) -> None:
        here = self._spec.vllm
        if here and there and _without_build(here) != _without_build(there):
            caveat = f"its node has vLLM {there}, and this machine {here}"
            _print(f"{self._spec.name}: {caveat}.")
            self._update(caveat=caveat)

    async def _forward(self, server: tuple[str, int]) -> None:
        """Listen on this machine, and forward connections to the server's address and port on its node."""
        try:
            await self._forwarder.listen(server)
        except OSError as error:
            _print(f"Port {self._spec.port} cannot be used: {error.strerror}")
            self._failed = True
            self._stop_request.set()

    async def _wait_for_end(self, log: asyncio.Future[None]) -> int:
        """Wait for the end of the job, or a request for it, and return the exit code.

        Args:
            log: the copying of the job's log; it is done after the log's last line.
        """
        events: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._stop_request.wait()), log}
        while not self._stop_request.is_set():
            job = await self._job()
            if job and job.status.over:
                return 1
            if job and job.ray_job and self._spec.gpus == 0:
                await asyncio.to_thread(self._find_workers, job.node, job.ray_job)
            if log.done():  # the job is about to end
                await self._pause(POLL_INTERVAL)
            else:
                await asyncio.wait(events, timeout=LONG_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
        return await self._end()

    def _find_workers(self, own: str | None, ray_job: str) -> None:
        """Note the nodes of an engine that is spread over several nodes, the job's own node first."""
        with contextlib.suppress(ClusterError):
            wanted = {own, *(actor.node for actor in self._ray.actors(ray_job) if actor.alive)}
            found = [node for node in self._ray.nodes() if node.id in wanted]
            nodes = tuple(node.ip for node in sorted(found, key=lambda node: (node.id != own, node.ip)))
            if nodes != self._placement.nodes:
                self._update(nodes=nodes)

    async def _end(self) -> int:
        """Stop the job, wait for its end, and return the exit code.

        If the kernel is gone, the guards kill the agent after half a second. So the request to stop comes first.
        """
        job = self._spec.job
        self._forwarder.close()  # the server's port on the node is free before the job has ended
        with contextlib.suppress(ClusterError):  # the kernel checks the job itself, and the lease runs out
            await asyncio.to_thread(self._ray.stop, job)
            await asyncio.to_thread(self._ray.put, wire.request(job), b"")
            await asyncio.to_thread(teardown.wait, self._ray, job, END_LIMIT, END_LIMIT)
        return 0 if self._stop_request.is_set() and not self._failed else 1

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stop_request.wait(), seconds)


def _without_build(version: str) -> str:
    """Return the version without its build: without "+cpu", and without the name of another package."""
    return version.partition(" ")[0].partition("+")[0]


def _stamp() -> bytes:
    return str(time.time_ns()).encode()


def _print(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, text.encode() + b"\n")


async def _main() -> None:
    try:
        code = await Agent(unpack_job_spec(os.environ[wire.JOB_SPEC])).run()
    except Exception as error:  # noqa: BLE001 - the log shows the error, and the kernel stops the job
        _print(str(error) if isinstance(error, VllmMagicError) else f"{type(error).__name__}: {error}")
        code = 1
    os._exit(code)  # asyncio would wait for its threads, and a thread may still wait for a line of the log


if __name__ == "__main__":
    asyncio.run(_main())
