"""The kernel's spare: whether there is to be one, for which starts, and who gets it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.linux import memory
from vllm_magic.provisioning.standby import Spare, is_possible

if TYPE_CHECKING:
    from vllm_magic.provisioning.standby import Cast

ROOM = 16 * 2**30  # bytes of memory that must be free before one is made unasked
END_LIMIT = 10.0  # seconds for one to be gone
NONE_MADE = "none was made yet"


class SpareMode(str, Enum):
    """When a spare is made: once a server is ready where memory is plenty, in any case, or never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class SpareStatus:
    """How the spare is.

    Attributes:
        mode: when one is made.
        there: whether there is one.
        warm: whether it has imported everything.
        memory: bytes that it uses.
        since: when it was made, in seconds since the epoch; 0.0 where there is none.
        reason: why there is none; "" where there is one.
    """

    mode: SpareMode
    there: bool = False
    warm: bool = False
    memory: int = 0
    since: float = 0.0
    reason: str = ""


class Spares:
    """One for each manager, with one spare at most. Safe to use from any thread.

    Its lock is held for what it takes to start a guard pair, some 30 ms; no other lock is taken below it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._mode = SpareMode.OFF
        self._spare: Spare | None = None
        self._leaving: list[Spare] = []
        self._reason = NONE_MADE
        self._soon = False  # a start will take the spare that is there

    @property
    def mode(self) -> SpareMode:
        """When one is made; `OFF` at first, for programs that start one server and end."""
        return self._mode

    def set_mode(self, mode: SpareMode | str) -> None:
        """From now on; `OFF` also ends the one that is there. Its value, such as "on", will do."""
        mode = SpareMode(mode)
        with self._lock:
            if mode is SpareMode.OFF and mode is not self._mode:
                self._drop("it is switched off")
            self._mode = mode

    def want(self, cast: Cast, *, soon: bool = False) -> None:
        """A start like this one may come: have a spare for it, if that is wanted and there is room.

        Args:
            cast: what it has to be made for.
            soon: the start comes for certain, so no other wish takes this spare's place until it is taken.
        """
        with self._lock:
            self._look()
            if self._mode is SpareMode.OFF or not is_possible(cast.executable):
                return
            if self._spare and not self._spare.cast.difference(cast):
                self._soon |= soon
                return
            if self._spare and self._soon and not soon:
                return
            self._soon = soon
            self._drop("")
            if self._mode is SpareMode.AUTO and (memory.available() or 0) < ROOM:
                self._reason = f"less than {ROOM // 2**30} GiB of memory are free"
                return
            try:
                self._spare = Spare(cast)
            except OSError as error:
                self._reason = f"it cannot be had: {error}"

    def take(self, cast: Cast) -> Spare | str:
        """The spare for this start, which is the caller's then; or why there is none."""
        with self._lock:
            self._look()
            if self._spare is None:
                return self._reason
            if difference := cast.difference(self._spare.cast):
                return difference
            spare, self._spare, self._reason = self._spare, None, "the last start took it"
            return spare

    def status(self) -> SpareStatus:
        """How it is now."""
        with self._lock:
            self._look()
            one = self._spare
            if one is None:
                return SpareStatus(self._mode, reason=self._reason)
            return SpareStatus(self._mode, True, one.warm, one.memory, one.since)

    def wait_gone(self, timeout: float = END_LIMIT) -> bool:
        """Return when those that were dropped are gone; False where one is not after ``timeout`` seconds. Starts wait."""
        with self._lock:
            gone = [spare.wait_gone(timeout) for spare in self._leaving]
            self._look()
        return all(gone)

    def close(self) -> None:
        """The kernel ends: the guards see to the rest."""
        with self._lock:
            for spare in (self._spare, *self._leaving):
                if spare is not None:
                    spare.let_go()
            self._spare, self._leaving = None, []

    def _look(self) -> None:
        self._leaving = [spare for spare in self._leaving if not spare.gone]
        if self._spare and self._spare.over:
            self._reason = self._spare.over
            self._leaving += [] if self._spare.gone else [self._spare]
            self._spare = None

    def _drop(self, reason: str) -> None:
        if self._spare:
            self._spare.drop()
            self._leaving.append(self._spare)
            self._spare = None
        self._reason = reason
