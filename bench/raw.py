"""The bare command: `vllm serve` by subprocess, as one would without vllm_magic."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.target import LOOPBACK, Target, free_port
from vllm_magic.linux import pidfd, processes, shared_memory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from vllm_magic.linux.processes import Identity

HEALTH_LOOK = 0.05  # seconds between two `GET /health`
READY_LIMIT = 300.0  # seconds
KILL_LIMIT = 30.0  # seconds for SIGKILL to end a session
SILENT = 10.0  # seconds after which a SIGTERM that has had no effect counts as ignored


class RawServer:
    """A `vllm serve` in a session of its own, for the length of a `with`; after it nothing of it is left.

    Attributes:
        port: where it listens on the loopback interface.
        log_path: its output.
    """

    def __init__(self, target: Target, port: int | None = None) -> None:
        self._target = target
        self._tmp = Path(tempfile.mkdtemp(prefix="t", dir=target.folder))
        self._leader: subprocess.Popen[bytes] | None = None
        self._before = shared_memory.existing()
        self._segments: set[shared_memory.Segment] = set()
        self.port = port or free_port()
        self.log_path = self._tmp / "log"

    def __enter__(self) -> Self:
        target = self._target
        with self.log_path.open("wb") as log:
            self._leader = subprocess.Popen(
                [
                    *(target.executable, "serve", target.model, *target.flags),
                    *("--host", LOOPBACK, "--port", str(self.port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **target.env, "TMPDIR": str(self._tmp)},
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what lives of the session, and remove what it leaves in /dev/shm and on disk."""
        self._note_segments()
        deadline = time.monotonic() + KILL_LIMIT
        while (alive := self.members()) and time.monotonic() < deadline:
            for member in alive:
                pidfd.send(member, signal.SIGKILL)
            pidfd.wait_for_all(alive, 1.0)
        self.leader.wait(KILL_LIMIT)  # reaped last: until then no other session has its number
        shared_memory.unlink_unmapped(self._segments, before=self._before)
        shutil.rmtree(self._tmp)

    @property
    def leader(self) -> subprocess.Popen[bytes]:
        """The process that was started.

        Raises:
            RuntimeError: there is none yet.
        """
        if self._leader is None:
            raise RuntimeError("use it in a with statement")
        return self._leader

    @property
    def pid(self) -> int:
        """The leader's pid, which is the session id too."""
        return self.leader.pid

    def members(self) -> set[Identity]:
        """Return the living processes of its session."""
        table = processes.table()
        return {table[pid].identity for pid in processes.session_members(table, self.pid) if table[pid].alive}

    def wait_until_ready(self) -> None:
        """Return when `GET /health` answers 200.

        Raises:
            RuntimeError: it ended before that, or took longer than `READY_LIMIT`.
        """
        deadline = time.monotonic() + READY_LIMIT
        while not self._is_healthy():
            leader = processes.read(self.pid)  # not reaped, so that its pid stays its own
            if leader is None or not leader.alive or time.monotonic() >= deadline:
                end = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])
                raise RuntimeError(f"a bare vllm serve did not become ready:\n{end}")
            time.sleep(HEALTH_LOOK)

    def stop(self, limit: float) -> float | None:
        """Send SIGTERM to the leader, and wait for the last process of its session.

        Args:
            limit: seconds to wait.

        Returns:
            Seconds from the signal to the last end; None when something lives after `limit`.
        """
        self._note_segments()
        members = self.members()
        began = time.monotonic()
        self.leader.terminate()
        while members:
            if pidfd.wait_for_all(members, began + limit - time.monotonic()):
                return None
            took = time.monotonic() - began
            members = self.members()  # some may have been born meanwhile
        return took

    def _note_segments(self) -> None:
        """Remember the shared memory that its processes map now, while they live."""
        self._segments |= shared_memory.mapped_by(member.pid for member in self.members())

    def _is_healthy(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def stop_all(servers: Iterable[RawServer]) -> float:
    """Send SIGTERM to each leader, and wait for the last process of them all; seconds from the first signal on.

    Raises:
        RuntimeError: something lives after `READY_LIMIT`.
    """
    servers = list(servers)
    members = set().union(*(server.members() for server in servers))
    began = time.monotonic()
    for server in servers:
        server.leader.terminate()
    if pidfd.wait_for_all(members, READY_LIMIT):
        raise RuntimeError("bare servers did not end")
    return time.monotonic() - began
