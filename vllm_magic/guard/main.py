"""The guard pair of one server, run as ``python -I -S run.py CONTROL_FD KERNEL_PIDFD``.

::

    kernel ──(socketpair, pidfd)── outer guard ── inner guard ── leader (`vllm serve`, own session) ── ...

Both guards are subreapers (prctl(2)), so that nothing below them escapes by setsid or a double fork. Both watch
the kernel: its pidfd misses an ``execv`` in the kernel, the socket's end misses a kernel whose forked child still
holds the socket, so they watch both. The inner one owns the server and ends it; the outer one takes over when
the inner one dies, and the other way round. The leader dies with the inner guard (PR_SET_PDEATHSIG).

Where a server is to be kept, a kernel's end is not the server's: the inner guard waits for another kernel, which comes
in by the control socket, and tells the outer one of it over a link of their own.

While the server runs both sleep in poll(2). The inner one looks every two seconds whom it has adopted, of which no event
tells, and has the kernel and the disk know: once both guards are killed, nothing else may tell whose a process is that
has lost the mark of the server. While the server logs it wakes up a few times a second; the outer one never does.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from vllm_magic.guard import folder, record
from vllm_magic.guard.base import log
from vllm_magic.guard.inner import Inner
from vllm_magic.guard.message_stream import Inbox
from vllm_magic.guard.outer import Outer
from vllm_magic.guard.protocol import Order, Refused, encode
from vllm_magic.linux import machine, pidfd_calls, prctl, shared_memory

if TYPE_CHECKING:
    from vllm_magic.linux.shared_memory import Segment

ORDER_LIMIT = 30.0  # seconds for the kernel to say what to run


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
        inbox = Inbox(control)
        order = inbox.first(ORDER_LIMIT)
        problem = machine.proc_problem()
        if isinstance(order, Order) and problem:  # whom it would end might be anybody
            control.sendall(encode(Refused(errno.ESRCH, problem)))
            folder.discard(order.folder, order.tmp, order.log)
        elif isinstance(order, Order):
            _guard(control, inbox, kernel, order)
            status = 0
    except BaseException:  # noqa: BLE001 - a guard's own fault goes to the server's log, and the other guard acts
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _guard(control: socket.socket, inbox: Inbox, kernel: int, order: Order) -> None:
    prctl.become_subreaper()
    lock = _hold_lock(order.folder)
    me = os.getpid()
    outer_pidfd = pidfd_calls.open_pid(me)
    link, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = _existing()
    inner = os.fork()
    guard: Inner | Outer
    if inner == 0:
        os.setsid()
        prctl.become_subreaper()  # not inherited over a fork
        link.close()
        guard = Inner(control, inbox, kernel, order, before, outer=me, outer_pidfd=outer_pidfd, link=others)
    else:
        os.close(outer_pidfd)
        others.close()
        guard = Outer(control, inbox, kernel, order, before, inner=inner, link=link, lock=lock)
    guard.run()
    guard.see_to_last_words()


def _existing() -> set[Segment] | None:
    try:
        return shared_memory.existing()
    except OSError as error:
        log(f"no list of the shared memory: {error}")
        return None


def _hold_lock(folder: str) -> int | None:
    """Say "the guards live" until both are gone: the inner one shares the lock.

    Raises:
        BlockingIOError: somebody is clearing the folder, since the kernel is gone.
    """
    try:
        return record.hold_lock(folder)
    except BlockingIOError:
        raise
    except OSError as error:  # a file system without locks: then the record's identities have to tell
        log(f"no lock: {error}")
        return None
