"""Start the leader: the process that becomes ``vllm serve``."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

from vllm_magic.guard.protocol import LaunchRequest, Refused
from vllm_magic.linux import marks, prctl, processes

if TYPE_CHECKING:
    import socket

    from vllm_magic.linux.processes import Identity


def spawn(request: LaunchRequest, connection: socket.socket | None = None) -> Identity | Refused:
    """Fork and execute the leader in a session of its own; return when the exec has succeeded or failed.

    Args:
        request: the command line, environment and working directory.
        connection: the standard input of a standby; None for /dev/null.

    Returns:
        The leader's identity; or the error, if it could not be executed.

    Raises:
        OSError: no process or descriptor is free.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(request, guard, connection)
        except OSError as error:
            os.write(write, f"{error.errno} {error.strerror}: {error.filename or request.argv[0]}".encode())
        except ValueError as error:  # a NUL in an argument, a "=" in the name of a variable
            os.write(write, f"{errno.EINVAL} {error}".encode())
        finally:
            os._exit(127)
    os.close(write)
    with open(read, "rb") as pipe:  # a successful exec closes the other end
        failure = pipe.read().decode()
    process = processes.read(pid) or processes.hidden(pid)
    if failure or process is None:
        os.waitpid(pid, 0)
        number, _, text = failure.partition(" ")
        return Refused(int(number or 0), text or "the process ended before it executed vLLM")
    return process.identity


def _become(request: LaunchRequest, guard: int, connection: socket.socket | None) -> None:
    """Turn the forked child into the leader, which never returns.

    Raises:
        OSError: the leader cannot be executed.
        ValueError: an argument or a variable has a character that no program can be given.
    """
    prctl.die_with_parent(signal.SIGKILL)
    if os.getppid() != guard:  # the guard ended before the line above had an effect
        os._exit(127)
    os.setsid()
    for number in signal.valid_signals():
        # A kernel, and a shell's `nohup ... &`, ignore SIGINT, and ignored signals stay ignored after an exec.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(connection.fileno() if connection else os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(request.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request.cwd)
    with contextlib.suppress(OSError, ValueError):  # limits cannot be set everywhere, see `linux.marks`
        marks.seal(os.path.basename(request.folder))
    # Python opens every other descriptor with close-on-exec.
    os.execve(request.argv[0], request.argv, request.env)
