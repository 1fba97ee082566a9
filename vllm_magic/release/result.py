"""The result of a release: the processes that ended, the processes that are left, and the proof."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.sizes import gib
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    from vllm_magic.gpu.devices import GpuIndex


class Proof(str, Enum):
    """A proof of a release, from the weakest to the strongest; each includes the proofs before it.

    If an unknown process came to a GPU while the server ran, and stays, the proof is at most "NVML processes": all known
    processes of the server are gone, and the release's note names the other process.
    """

    NONE = "none"
    PROCESSES = "processes"  # every process of the server is dead, with all its threads
    DEVICE_FILES = "device files"  # and none of them holds a GPU's device file
    NVML_PROCESSES = "NVML processes"  # and the driver lists none of them
    NVML_MEMORY = (
        "NVML memory"  # and each GPU's used memory is back, except the memory of other, known processes
    )


@dataclass(frozen=True)
class EndedProcess:
    """A process of the server; ``start`` is in clock ticks since boot, ``how`` is the last signal that vllm_magic sent it."""

    pid: int
    start: int
    name: str
    how: str


@dataclass(frozen=True)
class GpuMemory:
    """The used memory of one GPU, in bytes; None if the driver does not say.

    Attributes:
        index: NVML's index.
        uuid: NVML's UUID.
        name: the name of the product, and of the node if the server was spread over several nodes.
        baseline: the used memory before the server was started.
        before: the used memory before the server was stopped.
        after: the used memory when the release was done.
        held: the memory that the server itself held just before its end, if the driver names its processes.
    """

    index: GpuIndex
    uuid: str
    name: str
    baseline: int | None
    before: int | None
    after: int | None
    held: int | None = None

    @property
    def freed(self) -> int | None:
        """The bytes that came back with this release.

        If the driver does not name the server's processes, memory that other processes gave back meanwhile counts too.
        """
        if self.held is not None and self.after is not None:
            return self.held
        if self.before is None or self.after is None:
            return None
        return self.before - self.after


@dataclass(frozen=True)
class Release(Viewable):
    """The release of a server that has ended.

    Attributes:
        server: the name of the server.
        why: the reason for the end, one of the values of `guard.protocol.Why`.
        seconds: the seconds from the request, or from the server's own end, until the proof.
        ended: the processes that have ended.
        left: the processes that have not ended.
        exit_code: the exit code of the leader; negative for a signal, None if unknown.
        vram: the used memory of each GPU that the server used.
        proof: the strongest proof that was possible.
        verified: whether every known process of the server has ended, and the memory that they held is back. If so, a stop
            succeeds. An unknown process that came to a GPU meanwhile, and stays, does not change this.
        note: a line about what could not be seen, is not back, or is held by a process that came meanwhile; "" for nothing.
        may_recheck: whether another check may prove the release: memory is not back yet, or another machine did not answer.
            Stopping the server again makes such a check.
        left_alone: a sentence about the processes that have the server's environment but do not belong to it; "" for none.
        begun_before: whether the release had begun before this stop, so that ``ended`` is empty: another stop has the report.
        files_left: a sentence about files of the server that could not be removed; "" for none.
    """

    server: str
    why: str
    seconds: float
    ended: tuple[EndedProcess, ...]
    left: tuple[EndedProcess, ...]
    exit_code: int | None
    vram: tuple[GpuMemory, ...]
    proof: Proof
    verified: bool
    note: str = ""
    may_recheck: bool = False
    left_alone: str = ""
    files_left: str = ""
    begun_before: bool = False

    @property
    def text(self) -> str:
        """The release in one line."""
        files_left = f"{self.files_left}." if self.files_left else ""
        return " ".join(filter(None, (self._text, self.left_alone, files_left)))

    @property
    def _text(self) -> str:
        count = len(self.ended)
        nothing = "its release had begun before" if self.begun_before else "it had not started"
        ended = f"{count} process{'' if count == 1 else 'es'} ended" if count else nothing
        if not self.verified:
            return f"{self.server} is not released, {self.seconds:.2f} s after its end began: {ended}, NOT proved."
        return f"{self.server} released in {self.seconds:.2f} s: {ended}, proved by {self.proof.value}."

    def view(self) -> View:
        """Return the number of ended processes, the memory that came back, and the proof."""
        rows = tuple(
            (
                f"{gpu.index}: {gpu.name}",
                gib(gpu.baseline),
                gib(gpu.before),
                gib(gpu.after),
                gib(gpu.freed),
            )
            for gpu in self.vram
        )
        note = (f"({self.note})",) if self.note and self.proof is not Proof.NVML_MEMORY else ()
        return View(self.text, ("GPU", "before start", "before stop", "now", "freed"), rows, note)

    @property
    def proof_note(self) -> str:
        """The note; "" if the proof is the strongest proof."""
        return "" if self.proof is Proof.NVML_MEMORY else self.note

    @property
    def doubt(self) -> str:
        """The note, if the driver reports the memory of the GPUs, and the proof is weaker than "NVML memory"; else ""."""
        return self.proof_note if any(gpu.after is not None for gpu in self.vram) else ""

    @property
    def in_brackets(self) -> str:
        """The doubt in brackets, to be appended to a line; "" if there is no doubt."""
        return f" ({self.doubt})" if self.doubt else ""


def nothing_to_release(server: str) -> Release:
    """Return the release of a server that never had a process."""
    return Release(server, "asked", 0.0, (), (), None, (), Proof.PROCESSES, verified=True)
