"""Starting the leader: the process that becomes ``vllm serve``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import Order, Refused
from vllm_magic.linux import marks, prctl, processes

if TYPE_CHECKING:
    import socket

    from vllm_magic.linux.processes import Identity


def spawn(order: Order, connection: socket.socket | None = None) -> Identity | Refused:
    """Fork and execute the leader in a session of its own; returns when the exec has succeeded or failed.

    Args:
        order: what to execute.
        connection: its standard input; None where it has none.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(order, guard, connection)
        except OSError as error:
            os.write(write, f"{error.errno} {error.strerror}: {error.filename or order.argv[0]}".encode())
        except ValueError as error:  # a NUL in an argument, a "=" in the name of a variable
            os.write(write, f"{errno.EINVAL} {error}".encode())
        finally:
            os._exit(127)
    os.close(write)
    with open(read, "rb") as pipe:  # end-of-file: the exec closed the other end
        failure = pipe.read().decode()
    process = processes.read(pid) or processes.hidden(pid)
    if failure or process is None:
        os.waitpid(pid, 0)
        number, _, text = failure.partition(" ")
        return Refused(int(number or 0), text or "the process ended before it was executed")
    return process.identity


def _become(order: Order, guard: int, connection: socket.socket | None) -> None:
    prctl.die_with_parent(signal.SIGKILL)
    if os.getppid() != guard:  # it ended before the line above took hold
        os._exit(127)
    os.setsid()
    for number in signal.valid_signals():
        # A kernel, and a shell's `nohup ... &`, have SIGINT ignored, and ignored signals survive an exec.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(connection.fileno() if connection else os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order.cwd)
    with contextlib.suppress(OSError, ValueError):  # where limits cannot be set, see `linux.marks`
        marks.seal(os.path.basename(order.folder))
    # Every other descriptor is close-on-exec, as Python opens them.
    os.execve(order.argv[0], order.argv, order.env)
