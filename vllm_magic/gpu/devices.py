"""The state of the GPUs at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

# NVML's index of a GPU; "GPU:PART" for a part of a divided GPU (MIG), as NVIDIA's Container Toolkit writes it.
GpuIndex = int | str
PART = "MIG-"  # the beginning of the UUID of a part


@dataclass(frozen=True)
class ComputeProcess:
    """A process that the driver lists on a GPU.

    Attributes:
        pid: the pid that the driver reports; in a container it may be the host's pid.
        used: the bytes of the GPU's memory that the process holds; None if the driver does not say.
        computes: whether the process has a CUDA context on the GPU, its own or one of MPS; else it only draws.
    """

    pid: int
    used: int | None
    computes: bool = True


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one part of a GPU that is divided (MIG). Memory is in bytes; None if the driver does not say (unified memory).

    CUDA takes a part for a GPU, with memory and processes of its own, but shows only one part to a program.

    Attributes:
        index: the index. CUDA may number the same GPUs differently, so identify a GPU by its `uuid`.
        uuid: the UUID, `GPU-...` or `MIG-...`, the same in every process and after every restart.
        name: the name of the product.
        total: all memory.
        used: the memory in use. Whether the driver counts its own share depends on its version, so compare two snapshots.
        free: the memory that can be allocated.
        processes: the processes that compute or draw; None if the driver does not list them (some containers).
        capability: CUDA's compute capability, such as (9, 0); None if the driver does not say.
    """

    index: GpuIndex
    uuid: str
    name: str
    total: int | None
    used: int | None
    free: int | None
    processes: tuple[ComputeProcess, ...] | None
    capability: tuple[int, int] | None = None

    @property
    def is_part(self) -> bool:
        """Whether this is a part of a GPU (MIG)."""
        return self.uuid.startswith(PART)

    def held_by(self, pids: Collection[int]) -> int | None:
        """Return the bytes that these processes hold; None if the driver lists none of them, or does not say how much."""
        listed = [process.used for process in self.processes or () if process.pid in pids]
        return sum(used or 0 for used in listed) if listed and None not in listed else None

    @property
    def unattributed(self) -> int | None:
        """The bytes in use that no listed process accounts for; None if that is not known."""
        if self.used is None or self.processes is None:
            return None
        return max(0, self.used - sum(process.used or 0 for process in self.processes))


@dataclass(frozen=True)
class Snapshot:
    """All GPUs at one moment.

    Attributes:
        taken: the time of `time.monotonic()` when the driver was asked; the figures are not older.
        gpus: the GPUs, in the order of their indices.
        driver: the version of the driver; None if there is none.
        problem: one line that says why no GPU can be seen; None if there are GPUs.
        cuda: the newest CUDA that the driver runs, such as (13, 0); None if the driver does not say.
    """

    taken: float
    gpus: tuple[Gpu, ...]
    driver: str | None
    problem: str | None
    cuda: tuple[int, int] | None = None

    def same(self, gpu: Gpu, of: Snapshot) -> Gpu | None:
        """Return the state of a GPU in this snapshot; None if this snapshot does not have the GPU.

        The UUID identifies a GPU. Several GPUs of a cloned virtual machine may have the same UUID; then the index decides too.

        Args:
            gpu: the GPU, as it was in another snapshot.
            of: the other snapshot.
        """
        found = [ours for ours in self.gpus if ours.uuid == gpu.uuid]
        is_shared = len(found) > 1 or sum(other.uuid == gpu.uuid for other in of.gpus) > 1
        return next((ours for ours in found if not is_shared or ours.index == gpu.index), None)
