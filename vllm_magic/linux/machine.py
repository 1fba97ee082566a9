"""Where a pid is valid: in this boot of this machine, in this PID namespace (pid_namespaces(7))."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from vllm_magic.linux import processes

_NAMESPACES = ("pid", "time")  # those in which a pid and a start time are valid (namespaces(7))
PROC_HINT = "Mount its own: mount -t proc proc /proc (with unshare: --mount-proc)"


class ForeignProcError(OSError):
    """/proc shows another PID namespace; the message says what to do."""


def check_proc() -> None:
    """Check that /proc numbers processes as the system calls do.

    Raises:
        ForeignProcError: it does not, so no process can be identified.
    """
    problem = proc_problem()
    if problem:
        raise ForeignProcError(f"{problem}. {PROC_HINT}")


def proc_problem() -> str:
    """Return what is wrong with /proc, without a full stop; "" if it shows the PID namespace of this process."""
    link, numbers = "", []
    with contextlib.suppress(OSError):
        link = os.readlink("/proc/self")
        with open("/proc/self/status", "rb") as file:  # also fails if no descriptor is free
            numbers = [line.split()[1:] for line in file if line.startswith(b"NSpid:")]
    return find_proc_problem(os.getpid(), link, [number.decode() for line in numbers for number in line])


def find_proc_problem(pid: int, link: str, numbers: list[str]) -> str:
    """Return what is wrong with /proc, from data that was read from it; "" for nothing.

    Args:
        pid: the pid of this process.
        link: the target of the link /proc/self; "" if there is none.
        numbers: NSpid of /proc/self/status (proc_pid_status(5)): the pids of this process, from the PID
            namespace of /proc down to its own; empty if Linux does not list them.
    """
    if link == str(pid) and len(numbers) <= 1:
        return ""
    which = f"this process has the number {link}" if link else "this process is not"
    return f"/proc shows another PID namespace, in which {which}"


def shares_namespaces(pid: int) -> bool:
    """Whether pids and start times mean the same for this process as for the process ``pid``; False if it is not known."""
    try:
        return all(
            os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
            for kind in _NAMESPACES
            if os.path.lexists(f"/proc/self/ns/{kind}")  # Linux has time namespaces since 5.6
        )
    except OSError:
        return False


class Place(NamedTuple):
    """Where pids come from. In two equal places, a pid means the same process.

    Attributes:
        host: the name of the machine; several machines see the same folder if the home is on a network.
        boot: the kernel's random number of this boot (random(4)).
        namespace: the PID namespace, as ``pid:[inode] since START``; each container has its own. The kernel
            gives the inode of an ended namespace to the next, so this includes the start time of the
            namespace's first process, where /proc shows it (else ``ever``).
        user: the user id.
    """

    host: str
    boot: str
    namespace: str
    user: int


def here() -> Place:
    """Return the place of this process.

    Raises:
        ForeignProcError: /proc shows another PID namespace, or none.
    """
    check_proc()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    first = processes.read(processes.INIT)
    namespace = f"{os.readlink('/proc/self/ns/pid')} since {first.identity.start if first else 'ever'}"
    return Place(os.uname().nodename, boot, namespace, os.getuid())
