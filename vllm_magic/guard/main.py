"""The guard pair of one server, run as ``python -I -S run.py CONTROL_FD KERNEL_PIDFD``.

::

    kernel ──(socketpair, pidfd)── outer guard ── inner guard ── leader (`vllm serve`, own session) ── ...

Both guards are subreapers (prctl(2)), so no process below them escapes by setsid or a double fork. Both watch the kernel's
pidfd, which does not show an ``execv`` in the kernel, and the socket, whose end does not show the death of a kernel with
a forked child. The inner guard owns the server and releases it. If one guard dies, the other releases the server. The
leader dies with the inner guard (PR_SET_PDEATHSIG).

If a server is to be kept after the kernel's end, the inner guard waits for another kernel, which connects to the control
socket, and passes its connection to the outer guard.

While the server runs, both guards sleep in poll(2). Every two seconds the inner guard scans for processes that it has
adopted, since no event shows an adoption, and reports them to the kernel and to the disk: if both guards are killed, this
list may be the only sign that a process belongs to the server. While the server writes to its log, the inner guard wakes
up a few times a second. The outer guard does not.
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
from vllm_magic.guard.protocol import LaunchRequest, Refused, encode
from vllm_magic.linux import disk, machine, pidfd_calls, prctl, shared_memory

if TYPE_CHECKING:
    from vllm_magic.linux.shared_memory import Segment

REQUEST_LIMIT = 30.0  # seconds for the kernel to send the launch request


def main() -> NoReturn:
    """Become the outer guard, fork the inner guard, and exit without Python's own clean-up."""
    # A kernel may block or ignore signals that the guards need, and a child inherits both.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control_fd, kernel = int(sys.argv[1]), int(sys.argv[2])
    for fd in (control_fd, kernel):
        os.set_inheritable(fd, False)
    status = 1
    try:
        control = socket.socket(fileno=control_fd)
        inbox = Inbox(control)
        request = inbox.first(REQUEST_LIMIT)
        problem = machine.proc_problem()
        if isinstance(request, LaunchRequest) and problem:  # a pid may mean another process
            control.sendall(encode(Refused(errno.ESRCH, problem)))
            folder.discard(request.folder, request.tmp, request.log)
        elif isinstance(request, LaunchRequest):
            _guard(control, inbox, kernel, request)
            status = 0
    except BaseException:  # noqa: BLE001 - the traceback goes to the server's log, and the other guard acts
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _guard(control: socket.socket, inbox: Inbox, kernel: int, request: LaunchRequest) -> None:
    """Run the outer guard in this process and the inner guard in a child; return, in each of them, at the guard's end."""
    prctl.become_subreaper()
    lock = _hold_lock(request.folder)
    me = os.getpid()
    outer_pidfd = pidfd_calls.open_pid(me)
    link, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = _existing()
    inner = os.fork()
    guard: Inner | Outer
    if inner == 0:
        os.setsid()
        prctl.become_subreaper()  # a forked child does not inherit this
        link.close()
        guard = Inner(control, inbox, kernel, request, before, outer=me, outer_pidfd=outer_pidfd, link=others)
    else:
        os.close(outer_pidfd)
        others.close()
        guard = Outer(control, inbox, kernel, request, before, inner=inner, link=link, lock=lock)
    guard.run()
    guard.flush_before_exit()


def _existing() -> set[Segment] | None:
    """Return the shared memory that exists before the server; None if it cannot be read."""
    try:
        return shared_memory.existing()
    except OSError as error:
        log(f"no list of the shared memory: {error}")
        return None


def _hold_lock(folder: str) -> int | None:
    """Take the lock that shows that a guard lives. A fork shares it, so it is held until both guards have ended.

    Returns:
        The descriptor of the lock; None if the file system has no locks, or may hang: a guard that has a file open there
        could not end.

    Raises:
        BlockingIOError: another process is clearing the folder, since the kernel is gone.
    """
    try:
        return None if disk.may_hang(folder) else record.hold_lock(folder)
    except BlockingIOError:
        raise
    except OSError as error:  # the identities in the record then show whether the guards live
        log(f"no lock: {error}")
        return None
