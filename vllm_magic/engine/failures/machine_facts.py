"""What the machine says about a failure, beside the log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MachineFacts:
    """Limits of the machine and its container. None: there is no limit, or it is not known.

    Attributes:
        shared_memory: the size of /dev/shm in bytes.
        memory_limit: the bytes of memory that the container may use.
        was_out_of_memory: whether the kernel has killed a process of the container for memory since the server's start.
        processes: the most processes and threads of the user.
        files: the most files that a process may open.
    """

    shared_memory: int | None = None
    memory_limit: int | None = None
    was_out_of_memory: bool = False
    processes: int | None = None
    files: int | None = None
