"""Turns on GPUs: servers that may share a GPU sleep, wake up and are switched one after the other.

A server that falls asleep while another one wakes up on the same GPU can hang both (vllm#37065). Servers on other GPUs do
not wait for each other.
"""

from __future__ import annotations

import math
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic import background
from vllm_magic.linux.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.engine.spec import ServerSpec


@dataclass(frozen=True)
class GpuSet:
    """The GPUs that a server may use, as far as its spec shows them.

    Attributes:
        machine: the address of the Ray cluster whose GPUs they are; None for this machine.
        indices: the indices of the GPUs; empty if they are not known.
    """

    machine: str | None = None
    indices: frozenset[int] = frozenset()

    @classmethod
    def of(cls, spec: ServerSpec) -> GpuSet:
        """Return the GPUs of a server with this spec. They are known only if ``--gpus`` consists of indices."""
        parts = [part.strip() for part in (spec.gpus or "").split(",")]
        known = all(part.isdecimal() for part in parts)
        return cls(spec.cluster, frozenset(map(int, parts)) if known else frozenset())

    def may_overlap(self, other: GpuSet) -> bool:
        """Whether the two sets may have a GPU in common. Unknown GPUs may be any GPUs of their machine."""
        if self.machine != other.machine:
            return False
        return not self.indices or not other.indices or bool(self.indices & other.indices)


@dataclass(frozen=True)
class _Turn:
    thread: int
    gpus: frozenset[GpuSet]


class GpuTurns:
    """Gives threads their turns on GPUs. A turn comes before every lock.

    A thread that has a turn may take another turn inside it: a switch puts servers to sleep, and a signal handler of the
    program may interrupt a call and make another one. To avoid a deadlock, the outer turn must have all GPUs of the inner
    turns.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._taken: list[_Turn] = []
        self._changed = Latch()  # set, and replaced by a new one, at the end of the next turn

    @contextmanager
    def turn(self, *gpus: GpuSet) -> Iterator[None]:
        """Wait until no other thread has a turn on any of these GPUs, and hold the turn during the ``with`` block."""
        mine = _Turn(threading.get_ident(), frozenset(gpus))
        try:
            while (changed := background.with_lock(self._lock, lambda: self._take(mine))) is not None:
                changed.wait(math.inf)
            yield
        finally:
            background.with_lock(self._lock, lambda: self._give_back(mine))

    def _take(self, mine: _Turn) -> Latch | None:
        """Take the turn and return None; or return the latch that is set when the turn may be free."""
        if self._is_taken(mine):
            return self._changed
        self._taken.append(mine)
        return None

    def _give_back(self, mine: _Turn) -> None:
        if mine in self._taken:  # it is not there if an interrupt has ended the wait
            self._taken.remove(mine)
        changed, self._changed = self._changed, Latch()
        changed.set()

    def _is_taken(self, wanted: _Turn) -> bool:
        return any(
            taken.thread != wanted.thread and taken_gpus.may_overlap(wanted_gpus)
            for taken in self._taken
            for taken_gpus in taken.gpus
            for wanted_gpus in wanted.gpus
        )


TURNS = GpuTurns()  # the turns of this process
