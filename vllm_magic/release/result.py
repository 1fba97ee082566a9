"""What a release did, and by what it is proved."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Proof(str, Enum):
    """The strongest evidence that this machine offers, weakest first; each includes those before it.

    Where somebody came to a GPU while the server ran, and stays, and nobody knows whose process that is, it is
    "NVML processes" at most: what is known of the server is gone, and who stays is named in the release's note.
    """

    NONE = "none"
    PROCESSES = "processes"  # every process of the server is dead, with all its threads
    DEVICE_FILES = "device files"  # and none of them holds a GPU's device file
    NVML_PROCESSES = "NVML processes"  # and the driver lists none of them
    NVML_MEMORY = "NVML memory"  # and each GPU's used memory is back at its baseline, but for what others are known to hold


@dataclass(frozen=True)
class EndedProcess:
    """A process of the server; ``start`` is in clock ticks since boot, ``how`` the last signal it got from us."""

    pid: int
    start: int
    name: str
    how: str


@dataclass(frozen=True)
class GpuMemory:
    """Used memory of one GPU, in bytes; None where the driver does not say.

    Attributes:
        index: NVML's index.
        uuid: NVML's UUID.
        name: the product; with its node, where a server was spread over several.
        baseline: before the server was started.
        before: before it was stopped.
        after: when the release was done.
        held: by the server itself just before its end, where the driver names its processes.
    """

    index: int
    uuid: str
    name: str
    baseline: int | None
    before: int | None
    after: int | None
    held: int | None = None

    @property
    def freed(self) -> int | None:
        """Bytes that came back with this release; what others gave back meanwhile counts only if nobody is named."""
        if self.held is not None and self.after is not None:
            return self.held
        if self.before is None or self.after is None:
            return None
        return self.before - self.after


@dataclass(frozen=True)
class Release:
    """A server that has been ended.

    Attributes:
        server: its name.
        why: what made it end, one of the values of `guard.protocol.Why`.
        seconds: from the request (or the server's own end) until it was proved.
        ended: the processes that are gone.
        left: those that are not.
        exit_code: of the leader; negative for a signal, None if unknown.
        vram: used memory of each GPU that the server used.
        proof: the strongest evidence there was.
        verified: whether everything that is known of the server has ended, and what it held is back. By this a stop
            succeeds or fails. It is true also where somebody came to a GPU meanwhile, and stays: a neighbour is no failure.
        note: what could not be seen, is not back, or is held by somebody who came meanwhile, in one line; "" for nothing.
        unseen: whether another look may prove what this one could not: something is not back yet, or another machine did
            not answer. Whoever stops the server again has such a look.
        left_alone: who has the server's environment and is none of it, in one sentence; "" for nobody.
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
    unseen: bool = False
    left_alone: str = ""

    @property
    def text(self) -> str:
        """What happened, in one line."""
        return f"{self._text} {self.left_alone}".rstrip()

    @property
    def _text(self) -> str:
        count = len(self.ended)
        ended = f"{count} process{'' if count == 1 else 'es'} ended" if count else "it had not started"
        if not self.verified:
            return f"{self.server} is not released, {self.seconds:.2f} s after its end began: {ended}, NOT proved."
        return f"{self.server} released in {self.seconds:.2f} s: {ended}, proved by {self.proof.value}."

    @property
    def doubt(self) -> str:
        """The note, where it says why the memory of GPUs is no proof although the driver tells it; else ""."""
        told = any(gpu.after is not None for gpu in self.vram)
        return self.note if told and self.proof is not Proof.NVML_MEMORY else ""

    @property
    def in_brackets(self) -> str:
        """The doubt as it is put behind a line; "" where there is none."""
        return f" ({self.doubt})" if self.doubt else ""


def nothing_to_release(server: str) -> Release:
    """The release of a server of which no process was ever there."""
    return Release(server, "asked", 0.0, (), (), None, (), Proof.PROCESSES, verified=True)
