"""What both guards can do: hear and tell, look after the server's processes, and end them."""

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
from vllm_magic.guard.ladder import Ladder, Members
from vllm_magic.guard.outbox import Outbox
from vllm_magic.guard.protocol import Ended, Message, Order, Stop, Stopping, Why
from vllm_magic.linux import processes, sessions, shared_memory

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from vllm_magic.guard.message_stream import Inbox
    from vllm_magic.linux.processes import Identity

KERNEL_GONE = Stop(grace=0.5, patience=0.5)
AT_ONCE = Stop(grace=0.0, patience=0.0)
LAST_WORDS_LIMIT = 600.0  # seconds for a kernel that does not read to take the last words
LOCK_LIMIT = 0.05  # seconds for the lock of one GPU
NOBODY = -1  # in place of the kernel's pidfd


class Guard:
    """What both guards have in common: the kernel's end, their own wake-up pipe, the release itself.

    Args:
        control: the connection to the kernel.
        inbox: what came over it.
        kernel: the kernel's pidfd.
        order: what the server is.
        before: the shared memory that was there before it; None where that could not be read.
    """

    def __init__(
        self,
        control: socket.socket,
        inbox: Inbox,
        kernel: int,
        order: Order,
        before: set[shared_memory.Segment] | None,
    ) -> None:
        self.serve_kernel(control, inbox, kernel)
        self.order = order
        self.before = before
        self.segments: set[shared_memory.Segment] = set()
        self.leader: Identity | None = None
        self.exit_code: int | None = None
        self.signalled = False
        self.wake = self._wake_up_on_signals()

    def serve_kernel(
        self, control: socket.socket, inbox: Inbox, kernel: int, outbox: Outbox | None = None
    ) -> None:
        """From now on this is the kernel: its connection, what it says, its pidfd, and what it is told."""
        self.control = control
        self.inbox = inbox
        self.outbox = outbox or Outbox(control)
        self.kernel = kernel

    def forget_kernel(self) -> None:
        """The kernel is gone."""
        if self.kernel != NOBODY:
            os.close(self.kernel)
            self.control.close()
            self.kernel = NOBODY

    def kernel_filenos(self) -> list[int]:
        """Readable when the kernel has ended, or has something to say; none while there is no kernel."""
        return [] if self.kernel == NOBODY else [self.kernel, self.control.fileno()]

    def _wake_up_on_signals(self) -> int:
        """A descriptor that is readable after SIGCHLD or SIGTERM; made anew in each guard."""
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        return read

    def _on_sigterm(self, *_: object) -> None:
        self.signalled = True

    def say(self, message: Message) -> None:
        """Tell the kernel; a kernel that is gone or does not read is no reason to stop working."""
        self.outbox.say(message)

    def see_to_last_words(self) -> None:
        """Wait until the kernel has taken what it was told, if that is too much for the socket and it lives."""
        deadline = time.monotonic() + LAST_WORDS_LIMIT
        while self.kernel != NOBODY and not self.outbox.is_empty and not self.signalled:
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
        """The server's living processes: by descent from this guard, and by the leader's session."""
        me = os.getpid()
        children = processes.children(me)
        unseen = [one for pid in sorted(children) if (one := processes.hidden(pid))]
        roots = [me, *(one.identity.pid for one in unseen)]
        table = sessions.near([*roots, *([self.leader.pid] if self.leader else ())])
        pids = processes.descendants(table, *roots) | (children & table.keys())
        if self.leader is not None:
            pids |= processes.server_members(table, self.leader)
        return [*(table[pid] for pid in pids - {me} if table[pid].alive), *unseen]

    def reap(self) -> None:
        """Collect dead children, the leader excepted: unreaped, its pid still names our session and no other."""
        for pid in processes.children(os.getpid()):
            process = processes.read(pid)
            if process and not process.alive and (self.leader is None or pid != self.leader.pid):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def is_empty(self) -> bool:
        """Whether nothing is left below this guard: it has no child, and whatever loses its parent becomes one.

        The leader is collected here; with it the session's number is given up.
        """
        if not self.leader_has_ended():
            return False
        self.leader = None
        try:
            while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
                pass
        except ChildProcessError:
            return True
        return self._are_traced()

    def _are_traced(self) -> bool:
        """Whether all children are zombies that a debugger keeps from being collected: those hold nothing any more."""
        pids = processes.children(os.getpid())
        left = [processes.read(pid) for pid in pids]
        if not left or any(one is None or one.alive for one in left):
            return False
        try:  # one that has ended just now can be collected, and may have left a child
            collected = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return True
        return collected is None and processes.children(os.getpid()) == pids

    def leader_has_ended(self) -> bool:
        """Whether the leader is dead; it stays a zombie, so that its pid is not given away."""
        if self.leader is None:
            return True
        try:
            result = self._ended_leader(self.leader)
            if result is None and not processes.is_alive(self.leader):  # just now, or a debugger has it
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

    def note(self, members: Members) -> None:
        """Remember the shared memory that these processes of the server map now."""
        # A process in state D may hold the lock that a read of its maps waits for.
        pids = [one.identity.pid for one in members if one.state != "D"]
        self.segments |= shared_memory.mapped_by(pids)

    def note_existing(self) -> None:
        """A spare becomes a server now: what others have put into shared memory meanwhile is not the server's."""
        if self.before is not None:
            try:
                ours = shared_memory.mapped_by(one.identity.pid for one in self.members())
                self.before |= shared_memory.existing() - ours
            except OSError:  # no descriptor
                self.before = None

    def release(self, by: str, why: Why, stop: Stop, hurry: Iterable[int] = ()) -> None:
        """End every process of the server, remove the shared memory it leaves, and say what happened."""
        self.say(Stopping(why.value))
        with contextlib.ExitStack() as stack:
            for lock in self.order.locks:
                stack.enter_context(_shared_lock(lock))
            # With a guard that was killed its notes are gone.
            tidies = why is Why.GUARD_GONE
            ladder = Ladder(self.members, self.leader, self.note, self.is_empty, hurry, tidies=tidies)
            outcome = ladder.run(stop.grace, stop.patience)
            shared_memory.unlink_unmapped(self.segments, self.before)
        record.remember(self.order.folder, outcome.left)
        self.say(Ended(by, why.value, self.exit_code, outcome.ended, outcome.left, round(outcome.seconds, 3)))

    def clear(self) -> None:
        """Remove the server's private folder; as long as anything lives of the server, it says whose that is."""
        if not self.is_empty():  # SIGKILL did not end it: a later stop or sweep has to find it
            return
        folder.clear(self.order.folder, self.order.tmp, self.order.log, self.order.keep_log)


def log(words: str) -> None:
    """Say something in the server's log, which is this process's standard error; the disk may be full."""
    with contextlib.suppress(OSError):
        print(f"vllm_magic: {words}", file=sys.stderr, flush=True)  # noqa: T201 - see above


def _shared_lock(path: str) -> contextlib.AbstractContextManager[object]:
    """Hold a shared flock on the file; one that cannot be had now is no reason to delay a release.

    A start or a doctor that looks at this moment has the exclusive lock for an instant, so it is tried again for
    `LOCK_LIMIT` seconds.
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
