"""What is known of the GPUs at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True)
class ComputeProcess:
    """A process which the driver lists on a GPU.

    Attributes:
        pid: as the driver says; in a container it may be the host's.
        used: bytes of the GPU's memory, None when the driver does not say.
        computes: whether it has a CUDA context there, of its own or by way of MPS; else it only draws.
    """

    pid: int
    used: int | None
    computes: bool = True


@dataclass(frozen=True)
class Gpu:
    """One GPU. Memory is in bytes, and None where the driver does not say (unified memory).

    Attributes:
        index: NVML's index; CUDA may number the same GPUs otherwise, so name a GPU by its `uuid`.
        uuid: `GPU-...`, the same in every process and after every restart.
        name: as the vendor sells it.
        total: all memory.
        used: memory in use. What the driver keeps for itself counts or not, depending on its version, so
            judge by the difference between two snapshots.
        free: memory that can be allocated.
        processes: those that compute or draw, None when the driver does not list them (MIG, some containers).
    """

    index: int
    uuid: str
    name: str
    total: int | None
    used: int | None
    free: int | None
    processes: tuple[ComputeProcess, ...] | None

    def held_by(self, pids: Collection[int]) -> int | None:
        """Bytes that these processes hold; None where the driver lists none of them, or does not say how much."""
        listed = [process.used for process in self.processes or () if process.pid in pids]
        return sum(used or 0 for used in listed) if listed and None not in listed else None

    @property
    def unattributed(self) -> int | None:
        """Bytes in use that no listed process accounts for, None when that cannot be told."""
        if self.used is None or self.processes is None:
            return None
        return max(0, self.used - sum(process.used or 0 for process in self.processes))


@dataclass(frozen=True)
class Snapshot:
    """All GPUs at one moment.

    Attributes:
        taken: `time.monotonic()` when the driver was asked; what it says is not older.
        gpus: in the order of their indices.
        driver: version of the driver.
        problem: one line that says why there is nothing to see, None when there are GPUs.
    """

    taken: float
    gpus: tuple[Gpu, ...]
    driver: str | None
    problem: str | None

    def gpu(self, uuid: str) -> Gpu | None:
        """Return the GPU of this UUID, None when it is not in sight."""
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)
