"""The outer guard: it waits for the inner guard, and releases the server if the inner guard dies or hangs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

from vllm_magic.guard import record
from vllm_magic.guard.base import NO_GRACE, Guard
from vllm_magic.guard.ladder import KILL_LIMIT
from vllm_magic.guard.outbox import Outbox
from vllm_magic.guard.protocol import KnownProcesses, LaunchRequest, Stop, Why, decode
from vllm_magic.guard.record import BrokenRecordError
from vllm_magic.linux import processes, shared_memory
from vllm_magic.linux.shared_memory import Segment

if TYPE_CHECKING:
    from vllm_magic.guard.message_stream import Inbox

HANG_CHECK_DELAY = 3.0  # seconds after the grace period until the inner guard is first checked
HANG_CHECK_INTERVAL = 0.5  # seconds between two checks
RELEASE_LIMIT = KILL_LIMIT + 5.0  # seconds after the first check in which a guard that does not hang is done
LONGEST_LINK_MESSAGE = 2**20  # bytes


class Outer(Guard):
    """The outer guard of one server. It ends after the inner guard and the server. Other arguments as for `Guard`.

    Args:
        inner: the inner guard's pid.
        link: the connection to the inner guard, for a new kernel, a standby's request, a stop, and the known processes.
        lock: the descriptor of the lock that shows that a guard lives; None without a lock.
    """

    def __init__(
        self,
        control: socket.socket,
        inbox: Inbox,
        kernel: int,
        request: LaunchRequest,
        before: set[Segment] | None,
        *,
        inner: int,
        link: socket.socket,
        lock: int | None,
    ) -> None:
        super().__init__(control, inbox, kernel, request, before)
        self._inner = inner
        self._link = link
        self._lock = lock
        self.guards |= {inner}
        # The time by `time.monotonic` when the kernel ended, or SIGTERM asked for the end.
        self._ending_since: float | None = None
        # The grace of the release, in seconds; None before the reason for the release is known.
        self._stop_grace: float | None = None

    def run(self) -> None:
        """Wait for the end of the inner guard, and release the server if the inner guard has not done that."""
        if not self._wait():
            self._read_rest()
            # The inner guard may have sent a part of a message.
            self.outbox = Outbox(self.control, is_cut=True)
            self.release("outer", Why.GUARD_GONE, NO_GRACE)
            self.disk.call(self._unlink_recorded)  # after the release, since a slow disk must not delay it
        # NFS renames a removed file that is open, so the folder would not be empty.
        if self._lock is not None:
            os.close(self._lock)
        self.clear()

    def _wait(self) -> bool:
        """Wait for the inner guard; return True if it has released the server, and False if it was killed, or hangs."""
        while True:
            pid, status = os.waitpid(self._inner, os.WNOHANG)
            if pid == self._inner:
                return os.waitstatus_to_exitcode(status) == 0
            rest = None
            if self._ending_since is not None:
                rest = self._ending_since + self._time_limit() - time.monotonic()
            if rest is not None and rest <= 0:
                if self._hangs(-rest):
                    return False  # the inner guard is a descendant, so the release ends it too
                rest = HANG_CHECK_INTERVAL
            self._handle_events(self._poll(rest))

    def _time_limit(self) -> float:
        """Return the seconds from `_ending_since` in which the inner guard should be done."""
        return HANG_CHECK_DELAY + (self.request.keep if self._stop_grace is None else self._stop_grace)

    def _hangs(self, late: float) -> bool:
        """Whether the inner guard hangs: it is stopped, or it is `RELEASE_LIMIT` seconds late.

        A guard that is only slow does not count: its list of shared memory would be lost with it. Neither does state D,
        which usually ends soon; and if it does not end, no signal helps.

        Args:
            late: seconds since the time when the inner guard should have been done.
        """
        if late >= RELEASE_LIMIT:
            return True
        try:
            inner = processes.read(self._inner)
        except OSError:  # no descriptor or memory is free
            return False
        return inner is None or inner.state in processes.STOPPED_STATES

    def _unlink_recorded(self) -> None:
        """Remove the shared memory in the record: the processes that mapped it may have ended before the release.

        The list of the shared memory that existed before the server is on disk too. For a server that was a standby, this guard
        has no such list.
        """
        with contextlib.suppress(OSError, BrokenRecordError):
            noted = record.read(self.request.folder)
            existing = record.read_existing_segments(self.request.folder)
            before = self.before if existing is None else existing
            recorded = {Segment(*segment) for segment in noted.segments}
            shared_memory.unlink_unmapped(self.segments | recorded, before)

    def _poll(self, rest: float | None) -> set[int]:
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        poller.register(self._link, select.POLLIN)
        if self._ending_since is None:  # the end of the kernel needs no second event
            poller.register(self.kernel, select.POLLIN)
            poller.register(self.control, select.POLLRDHUP)
        return {fd for fd, _ in poller.poll(None if rest is None else rest * 1000)}

    def _handle_events(self, ready: set[int]) -> None:
        self.drain_wake()
        if self._link.fileno() in ready:
            self._receive_from_inner()
        elif ready & {self.kernel, self.control.fileno()}:
            self._ending_since = time.monotonic()
            if self._stop_grace is not None or self.request.keep <= 0:
                self._stop_grace = 0.0  # the inner guard does not wait any longer either
        if self.signalled:
            self.signalled = False
            os.kill(self._inner, signal.SIGTERM)
            self._stop_grace = 0.0
            self._ending_since = time.monotonic()

    def _read_rest(self) -> None:
        """Handle the last messages of the inner guard, above all the launch request of a standby."""
        poller = select.poll()
        poller.register(self._link, select.POLLIN)
        while poller.poll(0) and self._receive_from_inner():
            pass

    def _receive_from_inner(self) -> bool:
        """Handle a message of the inner guard; return False after the last message of a guard that has died.

        The message is the launch request of a standby, the known processes, or a stop; or it passes the pidfd and the
        connection of a new kernel by SCM_RIGHTS (unix(7)).
        """
        data, fds, _, _ = socket.recv_fds(self._link, LONGEST_LINK_MESSAGE, 2)
        message = decode(data)
        if isinstance(message, LaunchRequest):
            self.request = message
            # This guard may read the request late, and then cannot find out which shared memory existed before the server. So
            # its release removes none, and `_unlink_recorded` uses the list on disk.
            self.before = None
        elif isinstance(message, KnownProcesses):
            known = message.known
            self.disk.call(lambda: self._write_known(known))
        elif isinstance(message, Stop):
            self._stop_grace = (
                message.grace if self._stop_grace is None else min(self._stop_grace, message.grace)
            )
            if self._ending_since is not None:  # the server was kept after its kernel's end
                self._ending_since = time.monotonic()
        elif len(fds) == 2:  # noqa: PLR2004 - without descriptors the inner guard has died
            kernel, control = fds
            for fd in fds:
                os.set_inheritable(fd, False)
            self.drop_kernel()
            self.set_kernel(socket.socket(fileno=control), self.inbox, kernel)
            self._ending_since = None
        return bool(data)

    def _write_known(self, known: list[list[int]]) -> None:
        with contextlib.suppress(OSError):  # a full disk, or the folder is gone
            record.write_known_processes(self.request.folder, known)
