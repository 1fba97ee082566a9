"""The part that both guards share: messages to and from the kernel, the server's processes, and their release."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

from vllm_magic.guard import folder, record
from vllm_magic.guard.disk_calls import LIMIT, DiskCalls
from vllm_magic.guard.ladder import Ladder, Members, Outcome
from vllm_magic.guard.outbox import Outbox
from vllm_magic.guard.protocol import Ended, LaunchRequest, Message, Stop, Stopping, Why
from vllm_magic.linux import processes, sessions, shared_memory

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from vllm_magic.guard.message_stream import Inbox
    from vllm_magic.linux.processes import Identity

SHORT_GRACE = Stop(grace=0.5, patience=0.5)  # when the kernel is gone
NO_GRACE = Stop(grace=0.0, patience=0.0)
FLUSH_LIMIT = 600.0  # seconds to wait until a slow kernel has read the last messages
LOCK_LIMIT = 0.05  # seconds to try to lock the lock file of one GPU
# Seconds to try to release the server on a machine that is short of descriptors or memory, and seconds between two attempts.
SHORTAGE_LIMIT = 600.0
SHORTAGE_INTERVAL = 0.25
NO_KERNEL = -1  # in place of the kernel's pidfd


class Guard:
    """The base class of both guards: the connection to the kernel, the wake-up pipe, and the release.

    Args:
        control: the connection to the kernel.
        inbox: the messages that arrive over this connection.
        kernel: the kernel's pidfd.
        request: the server that the guard runs.
        before: the shared memory that existed before the server; None if it could not be read.

    Attributes:
        segments: the shared memory that the server was seen to map.
        disk: calls the functions that use the disk of the private folder.
        guards: the pids of this guard and the guards below it; each has a session of its own.
        leader: the leader; None before its start, and after it was reaped.
        exit_code: the leader's exit code, negative for a signal; None while it is not known.
        signalled: whether this guard got SIGTERM.
        wake: a descriptor that becomes readable after SIGCHLD or SIGTERM.
    """

    def __init__(
        self,
        control: socket.socket,
        inbox: Inbox,
        kernel: int,
        request: LaunchRequest,
        before: set[shared_memory.Segment] | None,
    ) -> None:
        self.set_kernel(control, inbox, kernel)
        self.request = request
        self.before = before
        self.segments: set[shared_memory.Segment] = set()
        self.disk = DiskCalls(request.folder)
        self.guards = frozenset({os.getpid()})
        self.leader: Identity | None = None
        self.exit_code: int | None = None
        self.signalled = False
        self.wake = self._wake_up_on_signals()

    def set_kernel(
        self, control: socket.socket, inbox: Inbox, kernel: int, outbox: Outbox | None = None
    ) -> None:
        """Set the kernel that the guard serves from now on.

        Args:
            control: the connection to the kernel.
            inbox: the messages that arrive over this connection.
            kernel: the kernel's pidfd.
            outbox: the messages that are sent over this connection; a new one by default.
        """
        self.control = control
        self.inbox = inbox
        self.outbox = outbox or Outbox(control)
        self.kernel = kernel

    def drop_kernel(self) -> None:
        """Close the connection and the pidfd of a kernel that is gone."""
        if self.kernel != NO_KERNEL:
            os.close(self.kernel)
            self.control.close()
            self.kernel = NO_KERNEL

    def kernel_filenos(self) -> list[int]:
        """The descriptors that become readable when the kernel ends or sends something; empty without a kernel."""
        return [] if self.kernel == NO_KERNEL else [self.kernel, self.control.fileno()]

    def _wake_up_on_signals(self) -> int:
        """Install the signal handlers, and return a descriptor that becomes readable after SIGCHLD or SIGTERM."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        return read

    def _on_sigterm(self, *_: object) -> None:
        self.signalled = True

    def send(self, message: Message) -> None:
        """Send a message to the kernel. This never waits, and does nothing if the kernel is gone."""
        if self.kernel != NO_KERNEL:
            self.outbox.send(message)

    def flush_before_exit(self) -> None:
        """Wait until the kernel has received all messages, at most `FLUSH_LIMIT` seconds, or until the kernel ends."""
        deadline = time.monotonic() + FLUSH_LIMIT
        while self.kernel != NO_KERNEL and not self.outbox.is_empty and not self.signalled:
            poller = select.poll()
            for fd in (self.wake, self.kernel):
                poller.register(fd, select.POLLIN)
            poller.register(self.control, select.POLLOUT)
            ready = {fd for fd, _ in poller.poll(max(0.0, deadline - time.monotonic()) * 1000)}
            if not ready or self.kernel in ready:
                return
            self.drain_wake()
            self.outbox.flush()

    def drain_wake(self) -> None:
        """Empty the wake-up pipe."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake, 512):
                pass

    def members(self) -> Members:
        """Return the server's living processes: the descendants of this guard, and the leader's session."""
        me = os.getpid()
        children = processes.children(me)
        hidden = [process for pid in sorted(children) if (process := processes.hidden(pid))]
        roots = [me, *(process.identity.pid for process in hidden)]
        table = sessions.near([*roots, *([self.leader.pid] if self.leader else ())])
        pids = processes.descendants(table, *roots) | (children & table.keys())
        if self.leader is not None:
            pids |= processes.server_members(table, self.leader)
        return [
            *(table[pid] for pid in pids - {me} if table[pid].alive and not self._is_guard(table[pid])),
            *hidden,
        ]

    def _is_guard(self, process: processes.Process) -> bool:
        """Whether this is a process of the guards that uses the disk; see `disk_calls`."""
        return process.session in self.guards and process.identity.pid not in self.guards

    def reap(self) -> None:
        """Reap dead children except the leader: while its pid is not reaped, no other session can get that number."""
        for pid in processes.children(os.getpid()):
            process = processes.read(pid)
            if process and not process.alive and (self.leader is None or pid != self.leader.pid):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def is_empty(self) -> bool:
        """Whether this guard has no child any more, and so no descendant: an orphan below it becomes its child.

        This reaps the leader, so the session's number may be used again afterwards.
        """
        if not self.leader_has_ended():
            return False
        self.leader = None
        try:
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                pass
        except ChildProcessError:
            return True
        return self._are_all_traced()

    def _are_all_traced(self) -> bool:
        """Whether all children are zombies that a debugger keeps from being reaped. They hold no memory any more."""
        pids = processes.children(os.getpid())
        left = [processes.read(pid) for pid in pids]
        using_disk = [process for process in left if process is not None and self._is_guard(process)]
        if using_disk:  # they do not belong to the server
            return len(using_disk) == len(left)
        if not left or any(process is None or process.alive for process in left):
            return False
        try:  # a child that has ended just now can be reaped, and may have left a child of its own
            reaped = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return True
        return reaped is None and processes.children(os.getpid()) == pids

    def leader_has_ended(self) -> bool:
        """Whether the leader is dead. It is not reaped, so that no other process gets its pid."""
        if self.leader is None:
            return True
        try:
            result = self._ended_leader(self.leader)
            if result is None and not processes.is_alive(self.leader):  # it ended just now, or is traced
                result = self._ended_leader(self.leader)
                if result is None:
                    return True
        except ChildProcessError:
            return not processes.is_alive(self.leader)
        if result is None:
            return False
        exited = result.si_code == os.CLD_EXITED
        self.exit_code = result.si_status if exited else -result.si_status
        return True

    @staticmethod
    def _ended_leader(leader: Identity) -> os.waitid_result | None:
        return os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def remember_segments(self, members: Members) -> None:
        """Add the shared memory that these processes map now to `segments`."""
        # A process in state D may hold the lock that a read of its maps waits for.
        pids = [process.identity.pid for process in members if process.state != "D"]
        self.segments |= shared_memory.mapped_by(pids)

    def release(
        self,
        by: str,
        why: Why,
        stop: Stop,
        end_grace: Iterable[int] = (),
        later_stop: Callable[[], Stop | None] = lambda: None,
    ) -> None:
        """End every process of the server, remove its shared memory, and send the kernel a report.

        Args:
            by: the guard that does this, "inner" or "outer".
            why: the reason.
            stop: the times for the processes to end by themselves.
            end_grace: descriptors of which one becomes readable when a later stop may have come.
            later_stop: called when such a descriptor is readable; see `Ladder`.
        """
        self.send(Stopping(why.value, stop.grace))
        with contextlib.ExitStack() as stack:
            for lock in self.request.locks:
                stack.enter_context(_try_shared_lock(lock))
            # The list of a killed guard is lost, so the resource trackers must remove the shared memory.
            trackers_last = why is Why.GUARD_GONE
            ladder = Ladder(
                self.members,
                self.leader,
                self.remember_segments,
                self.is_empty,
                end_grace,
                later_stop,
                trackers_last=trackers_last,
            )
            outcome = self._end_server(ladder, stop)
        if outcome.left:
            self.disk.call(lambda: record.add_known_processes(self.request.folder, outcome.left))
        self.send(
            Ended(by, why.value, self.exit_code, outcome.ended, outcome.left, round(outcome.seconds, 3))
        )

    def _end_server(self, ladder: Ladder, stop: Stop) -> Outcome:
        """Run the ladder, and remove the shared memory. While no descriptor or memory is free, try again."""
        deadline = time.monotonic() + SHORTAGE_LIMIT
        while True:
            try:
                outcome = ladder.run(stop.grace, stop.patience)
                shared_memory.unlink_unmapped(self.segments, self.before)
            except (OSError, MemoryError) as error:
                if time.monotonic() >= deadline:
                    raise
                log(f"the release is tried again: {error}")
                time.sleep(SHORTAGE_INTERVAL)  # no event shows the end of a shortage
            else:
                return outcome

    def clear(self) -> None:
        """Remove the server's private folder, unless a process of the server still lives."""
        if not self.is_empty():  # SIGKILL did not end a process: a later stop or sweep needs the record
            return
        request = self.request
        self.disk.call(
            lambda: folder.clear(request.folder, request.tmp, request.log, request.keep_log),
            folder.CLEAR_LIMIT + LIMIT,
        )


def log(text: str) -> None:
    """Write a line to the server's log, which is this process's standard error. A full disk raises no error."""
    with contextlib.suppress(OSError):
        print(f"vllm_magic: {text}", file=sys.stderr, flush=True)  # noqa: T201 - see above


def _try_shared_lock(path: str) -> contextlib.AbstractContextManager[object]:
    """Try for `LOCK_LIMIT` seconds to take a shared flock on the file; go on without the lock after that.

    A start or a doctor that checks the lock holds it exclusively for an instant.
    """
    stack = contextlib.ExitStack()
    deadline = time.monotonic() + LOCK_LIMIT
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(LOCK_LIMIT / 10)
    return stack
