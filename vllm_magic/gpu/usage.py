"""What the processes of each server hold of each GPU, as one look at the driver has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm_magic.gpu.devices import Gpu
    from vllm_magic.linux.processes import Identity


class GpuUsage(NamedTuple):
    """One look at the GPUs, in bytes; each tuple has an entry for each GPU, None where the driver does not say.

    Attributes:
        used: in use of each.
        nothing: what somebody holds who is listed nowhere.
        by_leader: what the processes of each leader hold.
    """

    used: tuple[int | None, ...] = ()
    nothing: tuple[int | None, ...] = ()
    by_leader: Mapping[Identity, tuple[int | None, ...]] = {}

    def held(self, leader: Identity | None) -> tuple[int | None, ...]:
        """What the processes of this leader hold."""
        return self.by_leader.get(leader, self.nothing) if leader else self.nothing


def see(gpus: Sequence[Gpu], leaders: Mapping[int, Identity]) -> GpuUsage:
    """What there is to be seen; each process is looked at once, however many servers there are.

    Args:
        gpus: as the driver tells of them.
        leaders: by the pid of a process, the leader of the server that it belongs to.
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
