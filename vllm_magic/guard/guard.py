"""The guard pair of one server, run as ``python -I -S run.py CONTROL_FD KERNEL_PIDFD``.

::

    kernel ──(socketpair, pidfd)── outer guard ── inner guard ── leader (`vllm serve`, own session) ── ...

Both guards are subreapers (prctl(2)), so that nothing below them escapes by setsid or a double fork. Both watch
the kernel: its pidfd misses an ``execv`` in the kernel, the socket's end misses a kernel whose forked child still
holds the socket, so they watch both. The inner one owns the server and ends it; the outer one takes over when
the inner one dies, and the other way round. The leader dies with the inner guard (PR_SET_PDEATHSIG).

While the server runs both sleep in poll(2) without a time limit: no wake-ups.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
import time
from typing import NoReturn

from vllm_magic.guard import folder, leader
from vllm_magic.guard.duty import Guard
from vllm_magic.guard.inbox import Inbox
from vllm_magic.guard.protocol import Note, Order, Refused, Started, Stop, Why
from vllm_magic.linux import pidfd, prctl, processes

ORDER_LIMIT = 30.0  # seconds for the kernel to say what to run
KERNEL_GONE = Stop(grace=0.5, patience=0.5)
AT_ONCE = Stop(grace=0.0, patience=0.0)
LEADER_ENDED_LINGER = 0.25  # seconds for the others to end by themselves after the leader
SAY_LIMIT = 2  # seconds that a kernel which does not read may hold a guard up
BACKSTOP = 3.0  # seconds after the kernel's end before the outer guard takes an inner one for hung, and acts


class Inner(Guard):
    """Starts the leader, waits for a reason to end it, and ends it."""

    def run(self, outer: int, outer_pidfd: int) -> None:
        """Live as long as the server; ``outer`` is the outer guard's pid."""
        if not self._start(outer):
            return
        why, stop = self._wait(outer_pidfd)
        if why is Why.LEADER_ENDED:
            self._linger()
        hurry = [self.kernel, outer_pidfd, self.control.fileno()] if why is Why.ASKED else []
        self.release("inner", why, stop, hurry)
        folder.clear(self.order)

    def _start(self, outer: int) -> bool:
        try:
            result = leader.spawn(self.order)
        except OSError as error:  # no process, no descriptor
            result = Refused(error.errno or 0, str(error.strerror))
        if isinstance(result, Refused):
            self.say(result)
            return False
        self.leader = result
        guards = [processes.read(pid) for pid in (outer, os.getpid())]
        outer_id, inner_id = (list(guard.identity) if guard else [0, 0] for guard in guards)
        self.say(Started(list(self.leader), outer_id, inner_id))
        return True

    def _wait(self, outer_pidfd: int) -> tuple[Why, Stop]:
        poller = select.poll()
        for fd in (self.wake, self.kernel, outer_pidfd, self.control.fileno()):
            poller.register(fd, select.POLLIN)
        reason = self._listen() if self.inbox.waiting else None
        while reason is None:
            ready = {fd for fd, _ in poller.poll()}
            if outer_pidfd in ready:
                return Why.GUARD_GONE, AT_ONCE
            if self.kernel in ready:
                return Why.KERNEL_GONE, KERNEL_GONE
            if self.control.fileno() in ready:
                reason = self._listen()
            if reason is None and self.wake in ready:
                reason = self._look_around()
        return reason

    def _listen(self) -> tuple[Why, Stop] | None:
        messages = self.inbox.read()
        if messages is None:
            return Why.KERNEL_GONE, KERNEL_GONE
        if any(isinstance(message, Note) for message in messages):
            self.note()
        stops = [message for message in messages if isinstance(message, Stop)]
        if not stops:
            return None
        # Two that came together mean what a second one means during the release: hurry.
        return Why.ASKED, stops[0] if len(stops) == 1 else AT_ONCE

    def _look_around(self) -> tuple[Why, Stop] | None:
        self.drain_wake()
        if self.signalled:
            return Why.GUARD_SIGNALLED, KERNEL_GONE
        if self.leader_has_ended():
            return Why.LEADER_ENDED, AT_ONCE
        self.reap()
        return None

    def _linger(self) -> None:
        """Give what the leader left behind a moment to end by itself, as it does after a clean exit."""
        self.note()
        pidfd.wait_for_all({one.identity for one in self.members()}, LEADER_ENDED_LINGER)


class Outer(Guard):
    """Waits for the inner guard, and ends what that one could not."""

    def run(self, inner: int) -> None:
        """Live until the inner guard is gone and nothing of the server is left."""
        finished = self._wait(inner)
        if not finished:
            self.release("outer", Why.GUARD_GONE, AT_ONCE)
        folder.clear(self.order)

    def _wait(self, inner: int) -> bool:
        """True when the inner guard has finished its work, False when it was killed or hangs."""
        poller = select.poll()
        poller.register(self.wake, select.POLLIN)
        poller.register(self.kernel, select.POLLIN)
        poller.register(self.control, select.POLLRDHUP)
        deadline: float | None = None
        while True:
            pid, status = os.waitpid(inner, os.WNOHANG)
            if pid == inner:
                return os.waitstatus_to_exitcode(status) == 0
            rest = None if deadline is None else deadline - time.monotonic()
            if rest is not None and rest <= 0:
                return False  # the release that follows ends the inner guard too: it is a descendant
            ready = {fd for fd, _ in poller.poll(None if rest is None else rest * 1000)}
            self.drain_wake()
            for fd in ready & {self.kernel, self.control.fileno()}:
                poller.unregister(fd)  # said once is enough
                deadline = deadline or time.monotonic() + BACKSTOP
            if self.signalled and deadline is None:
                os.kill(inner, signal.SIGTERM)
                deadline = time.monotonic() + BACKSTOP


def main() -> NoReturn:
    """Become the outer guard, fork the inner one, and leave without any clean-up of Python's own."""
    # A kernel may block or ignore what the guards live on, and both are inherited.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control_fd, kernel = int(sys.argv[1]), int(sys.argv[2])
    for fd in (control_fd, kernel):
        os.set_inheritable(fd, False)
    status = 1
    try:
        control = socket.socket(fileno=control_fd)
        control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SAY_LIMIT, 0))
        inbox = Inbox(control)
        order = inbox.first(ORDER_LIMIT)
        if isinstance(order, Order):
            _guard(control, inbox, kernel, order)
            status = 0
    except BaseException:  # noqa: BLE001 - a guard's own fault goes to the server's log, and the other guard acts
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _guard(control: socket.socket, inbox: Inbox, kernel: int, order: Order) -> None:
    prctl.become_subreaper()
    me = os.getpid()
    outer_pidfd = os.pidfd_open(me)
    inner = os.fork()
    if inner == 0:
        os.setsid()
        prctl.become_subreaper()  # not inherited over a fork
        Inner(control, inbox, kernel, order).run(me, outer_pidfd)
    else:
        os.close(outer_pidfd)
        Outer(control, inbox, kernel, order).run(inner)
