"""The outer guard: waits for the inner one, and ends what that one could not."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from vllm_magic.guard import record
from vllm_magic.guard.base import AT_ONCE, Guard
from vllm_magic.guard.ladder import KILL_LIMIT
from vllm_magic.guard.outbox import Outbox
from vllm_magic.guard.protocol import KnownProcesses, Order, Stop, Why, decode
from vllm_magic.guard.record import BrokenRecordError
from vllm_magic.linux import processes, shared_memory
from vllm_magic.linux.shared_memory import Segment

if TYPE_CHECKING:
    from vllm_magic.guard.message_stream import Inbox

BACKSTOP = 3.0  # seconds after the kernel's end before it is looked whether the inner guard hangs
LOOK = 0.5  # seconds between two such looks
LONGEST = KILL_LIMIT + 5.0  # seconds for one that does not hang: on a busy machine a release takes its time
LONGEST_NEWS = 2**20  # bytes


class Outer(Guard):
    """Lives until the inner guard is gone and nothing of the server is left.

    Args:
        inner: the inner guard's pid.
        link: on which that one tells of a new kernel, what a spare has become, and whom it has seen below it.
        lock: the descriptor of the lock that says "the guards live"; None where there is none.
    """

    def __init__(
        self,
        control: socket.socket,
        inbox: Inbox,
        kernel: int,
        order: Order,
        before: set[Segment] | None,
        *,
        inner: int,
        link: socket.socket,
        lock: int | None,
    ) -> None:
        super().__init__(control, inbox, kernel, order, before)
        self._inner = inner
        self._link = link
        self._lock = lock
        self._ending: float | None = (
            None  # when the kernel ended, or a signal asked for the end, by `time.monotonic`
        )
        self._asked: float | None = None  # seconds that the inner guard has for the end that was asked for
        self._known: queue.SimpleQueue[list[list[int]]] | None = None  # to be written

    def run(self) -> None:
        """Wait, and act if need be."""
        if not self._wait():
            self.outbox = Outbox(self.control, is_cut=True)  # the other guard may have been ended in a word
            self.release("outer", Why.GUARD_GONE, AT_ONCE)
            self._unlink_recorded()  # after it: a disk that hangs must not hold the release up
        if self._lock is not None:  # NFS keeps a file that is open, under another name, and so the folder
            os.close(self._lock)
        self.clear()

    def _wait(self) -> bool:
        """True when the inner guard has finished its work, False when it was killed or hangs."""
        while True:
            pid, status = os.waitpid(self._inner, os.WNOHANG)
            if pid == self._inner:
                return os.waitstatus_to_exitcode(status) == 0
            rest = None if self._ending is None else self._ending + self._patience() - time.monotonic()
            if rest is not None and rest <= 0:
                if self._hangs(-rest):
                    return False  # the release that follows ends the inner guard too: it is a descendant
                rest = LOOK
            self._look(self._poll(rest))

    def _patience(self) -> float:
        """Seconds from the beginning of the end until the inner guard should be done."""
        return BACKSTOP + (self.order.keep if self._asked is None else self._asked)

    def _hangs(self, late: float) -> bool:
        """Whether the inner guard is to be replaced, ``late`` seconds after it should have been done.

        Not one that is merely slow: what it has noted of the shared memory would be lost with it. In state D one is for
        moments, and where it stays there no signal helps.
        """
        inner = processes.read(self._inner)
        return inner is None or inner.state in processes.STOPPED_STATES or late >= LONGEST

    def _unlink_recorded(self) -> None:
        """Remove the shared memory that the inner guard had noted: who mapped it may have ended before the release."""
        with contextlib.suppress(OSError, BrokenRecordError):
            noted = record.read(self.order.folder)
            shared_memory.unlink_unmapped((Segment(*segment) for segment in noted.segments), self.before)

    def _poll(self, rest: float | None) -> set[int]:
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        poller.register(self._link, select.POLLIN)
        if self._ending is None:  # said once is enough
            poller.register(self.kernel, select.POLLIN)
            poller.register(self.control, select.POLLRDHUP)
        return {fd for fd, _ in poller.poll(None if rest is None else rest * 1000)}

    def _look(self, ready: set[int]) -> None:
        self.drain_wake()
        if self._link.fileno() in ready:
            self._hear_news()
        elif ready & {self.kernel, self.control.fileno()}:
            self._ending = time.monotonic()
        if self.signalled:
            self.signalled = False
            os.kill(self._inner, signal.SIGTERM)
            self._asked = 0.0
            self._ending = time.monotonic()

    def _hear_news(self) -> None:
        """A spare became a server, others are below the inner guard than before, or a new kernel has taken the server over.

        That one's pidfd and connection come by SCM_RIGHTS (unix(7)).
        """
        data, fds, _, _ = socket.recv_fds(self._link, LONGEST_NEWS, 2)
        news = decode(data)
        if isinstance(news, Order):
            self.order = news
            self.note_existing()
        elif isinstance(news, KnownProcesses):
            self._write_known(news.known)
        elif isinstance(news, Stop):
            self._asked = news.grace
            if self._ending is not None:  # its kernel is gone, and it was kept
                self._ending = time.monotonic()
        elif len(fds) == 2:  # noqa: PLR2004 - otherwise the inner guard has died
            kernel, control = fds
            for fd in fds:
                os.set_inheritable(fd, False)
            self.forget_kernel()
            self.serve_kernel(socket.socket(fileno=control), self.inbox, kernel)
            self._ending = None

    def _write_known(self, known: list[list[int]]) -> None:
        """Have it written in a thread: a disk that hangs must not keep this guard from its work."""
        if self._known is None:
            self._known = queue.SimpleQueue()
            with contextlib.suppress(RuntimeError):  # no thread is to be had
                threading.Thread(target=self._write, args=(self._known,), daemon=True).start()
        self._known.put(known)

    def _write(self, several: queue.SimpleQueue[list[list[int]]]) -> None:
        while True:
            known = several.get()
            with contextlib.suppress(OSError):  # a full disk, or the folder is gone
                record.write_known(self.order.folder, known)
