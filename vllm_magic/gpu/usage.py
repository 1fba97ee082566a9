"""The memory that the processes of each server hold on each GPU, at one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.gpu.devices import Gpu
    from vllm_magic.linux.processes import Identity


class GpuUsage(NamedTuple):
    """The memory in use at one moment, in bytes; each tuple has an entry for each GPU, None if the driver does not say.

    Attributes:
        used: the memory in use on each GPU.
        nothing: the memory of a server of which the driver lists no process: 0 on each GPU with a list of processes.
        by_leader: for each leader, the memory that the processes of its server hold.
    """

    used: tuple[int | None, ...] = ()
    nothing: tuple[int | None, ...] = ()
    by_leader: Mapping[Identity, tuple[int | None, ...]] = {}

    def held(self, leader: Identity | None) -> tuple[int | None, ...]:
        """Return the memory that the processes of this leader's server hold."""
        return self.by_leader.get(leader, self.nothing) if leader else self.nothing


def measure(gpus: Sequence[Gpu], leaders: Mapping[int, Identity]) -> GpuUsage:
    """Return the memory in use, by server. Each process is counted once, however many servers there are.

    Args:
        gpus: the GPUs, with the processes that the driver lists.
        leaders: for the pid of each process of a server, the server's leader.
    """
    nothing = tuple(None if gpu.processes is None else 0 for gpu in gpus)
    held: dict[Identity, list[int | None]] = {}
    for number, gpu in enumerate(gpus):
        for process in gpu.processes or ():
            if leader := leaders.get(process.pid):
                mine = held.setdefault(leader, list(nothing))
                before = mine[number]
                mine[number] = None if before is None or process.used is None else before + process.used
    used = tuple(gpu.used for gpu in gpus)
    return GpuUsage(used, nothing, {leader: tuple(mine) for leader, mine in held.items()})
