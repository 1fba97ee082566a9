"""The memory that the processes of each server hold on each GPU, at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.gpu.devices import Gpu
    from vllm_magic.linux.processes import Identity


class GpuUsage(NamedTuple):
    """The memory in use at one moment, in bytes. Each tuple has an entry for each GPU; None if the driver does not report it.

    Attributes:
        used: the memory in use on each GPU.
        without_processes: the memory of a server of which the driver lists no process: 0, or None for a GPU whose processes
            the driver does not list.
        by_leader: for each leader, the memory that the processes of its server hold.
    """

    used: tuple[int | None, ...] = ()
    without_processes: tuple[int | None, ...] = ()
    by_leader: Mapping[Identity, tuple[int | None, ...]] = {}

    def held(self, leader: Identity | None) -> tuple[int | None, ...]:
        """Return the memory that the processes of this leader's server hold."""
        return self.by_leader.get(leader, self.without_processes) if leader else self.without_processes


def measure(gpus: Sequence[Gpu], leaders: Mapping[int, Identity]) -> GpuUsage:
    """Return the memory in use, by server.

    Args:
        gpus: the GPUs, with the processes that the driver lists.
        leaders: for the pid of each process of a server, the server's leader.
    """
    without_processes = tuple(None if gpu.processes is None else 0 for gpu in gpus)
    held: dict[Identity, list[int | None]] = {}
    for number, gpu in enumerate(gpus):
        for process in gpu.processes or ():
            if leader := leaders.get(process.pid):
                by_gpu = held.setdefault(leader, list(without_processes))
                before = by_gpu[number]
                by_gpu[number] = None if before is None or process.used is None else before + process.used
    used = tuple(gpu.used for gpu in gpus)
    return GpuUsage(used, without_processes, {leader: tuple(by_gpu) for leader, by_gpu in held.items()})
