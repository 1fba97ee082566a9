"""Where a pid means anything: this boot of this machine, in this PID namespace (pid_namespaces(7))."""

from __future__ import annotations

import os
from typing import NamedTuple

from vllm_magic.linux import processes

INIT = 1


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
    """This process's place."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    first = processes.read(INIT)
    namespace = f"{os.readlink('/proc/self/ns/pid')} since {first.identity.start if first else 'ever'}"
    return Place(os.uname().nodename, boot, namespace, os.getuid())
