"""Where a pid means anything: this boot of this machine, in this PID namespace (pid_namespaces(7))."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from vllm_magic.linux import processes

INIT = 1
PROC_HINT = "Mount its own: mount -t proc proc /proc (with unshare: --mount-proc)"


class ForeignProcError(OSError):
    """/proc is of another PID namespace; the message says so, and what helps."""


def check_proc() -> None:
    """Check that /proc numbers processes as the system calls do.

    Raises:
        ForeignProcError: it does not, so that no process can be told from another.
    """
    problem = proc_problem()
    if problem:
        raise ForeignProcError(f"{problem}. {PROC_HINT}")


def proc_problem() -> str:
    """What is wrong with /proc, without a full stop; "" where it is this process's own."""
    link, numbers = "", []
    with contextlib.suppress(OSError):
        link = os.readlink("/proc/self")
        with open("/proc/self/status", "rb") as file:  # fails where no descriptor is free, too
            numbers = [line.split()[1:] for line in file if line.startswith(b"NSpid:")]
    return judge_proc(os.getpid(), link, [number.decode() for line in numbers for number in line])


def judge_proc(pid: int, link: str, numbers: list[str]) -> str:
    """What is wrong with a /proc.

    Args:
        pid: of this process.
        link: what /proc/self is a link to; "" where it is none.
        numbers: NSpid of /proc/self/status (proc_pid_status(5)): the pids of this process, from the PID namespace of
            that /proc down to its own; none where Linux does not tell.
    """
    if link == str(pid) and len(numbers) <= 1:
        return ""
    which = f"this process has the number {link}" if link else "this process is not"
    return f"/proc shows another PID namespace, in which {which}"


class Place(NamedTuple):
    """Two equal places number the same processes.

    Attributes:
        host: the name of the machine; a folder in a network's home directory is seen by several.
        boot: the kernel's random number of this boot (random(4)).
        namespace: the PID namespace, as ``pid:[inode]``; each container has its own. The kernel gives the inode of
            one that has ended to the next, so the start of its first process is a part of it, where /proc shows that.
        user: the user id.
    """

    host: str
    boot: str
    namespace: str
    user: int


def here() -> Place:
    """This process's place.

    Raises:
        ForeignProcError: /proc does not tell.
    """
    check_proc()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    first = processes.read(INIT)
    namespace = f"{os.readlink('/proc/self/ns/pid')} since {first.identity.start if first else 'ever'}"
    return Place(os.uname().nodename, boot, namespace, os.getuid())
