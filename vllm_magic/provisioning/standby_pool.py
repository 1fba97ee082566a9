"""The pool that holds a kernel's standby, and decides when a standby is started, and which start takes the standby."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic import background
from vllm_magic.linux import memory
from vllm_magic.linux.forks import ForkLock
from vllm_magic.provisioning.standby import Standby, is_possible
from vllm_magic.sizes import GIB, gib

if TYPE_CHECKING:
    from vllm_magic.provisioning.standby import StandbySpec

LEAST_FREE_MEMORY = 16 * GIB  # bytes of memory that must be free before a standby is started in the mode AUTO
END_LIMIT = 10.0  # seconds for a dropped standby to be gone
NONE_MADE = "none was started yet"


class StandbyMode(str, Enum):
    """When a standby is started."""

    AUTO = "auto"  # after a server is ready, if at least `LEAST_FREE_MEMORY` bytes of memory are free
    ON = "on"  # after a server is ready
    OFF = "off"


@dataclass(frozen=True)
class StandbyStatus:
    """The state of the standby.

    Attributes:
        mode: when a standby is started.
        there: whether a standby exists.
        warm: whether it has imported everything.
        memory: the bytes that it uses.
        since: when it was started, in seconds since the epoch; 0.0 if there is none.
        reason: why there is no standby; "" if there is one.
    """

    mode: StandbyMode
    there: bool = False
    warm: bool = False
    memory: int = 0
    since: float = 0.0
    reason: str = ""


class StandbyPool:
    """The pool of one manager, with one standby at most. Safe to use from any thread.

    The pool holds its lock while it starts a guard pair, about 30 ms, and takes no other lock meanwhile. The main thread never
    holds the lock, see `background.with_lock`.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()  # protects all attributes below
        self._mode = StandbyMode.OFF
        self._spare: Standby | None = None
        self._leaving: list[Standby] = []
        self._reason = NONE_MADE
        self._soon = False  # whether a start is about to take the spare

    @property
    def mode(self) -> StandbyMode:
        """When a standby is started; `OFF` at first, for programs that start one server and end."""
        return self._mode

    def set_mode(self, mode: StandbyMode | str) -> None:
        """Set when a standby is started; `OFF` also ends the present standby. A text such as "on" is accepted too."""
        wanted = StandbyMode(mode)
        background.with_lock(self._lock, lambda: self._set_mode(wanted))

    def want(self, spec: StandbySpec, *, soon: bool = False) -> None:
        """Start a standby for a start that may come, if the mode and the free memory allow it.

        Args:
            spec: the spec of the standby.
            soon: whether the start is certain. Until it takes the standby, only another call with ``soon`` replaces the standby.
        """
        background.with_lock(self._lock, lambda: self._want(spec, soon=soon))

    def take(self, spec: StandbySpec) -> Standby | str:
        """Return the standby for this start, which then belongs to the caller; or the reason why there is none."""
        return background.with_lock(self._lock, lambda: self._take(spec))

    def status(self) -> StandbyStatus:
        """Return the present state of the standby."""
        return background.with_lock(self._lock, self._status)

    def wait_gone(self, timeout: float = END_LIMIT) -> bool:
        """Wait until every dropped standby is gone. A start that asks for a standby meanwhile waits too.

        Args:
            timeout: seconds, after which a remaining standby is killed together with its guards.

        Returns:
            Whether all of them are gone.
        """
        return background.with_lock(self._lock, lambda: self._wait_gone(timeout))

    def close(self) -> None:
        """Disconnect from the guards, which then end the standby. Called when the kernel ends."""
        background.with_lock(self._lock, self._close)

    def _set_mode(self, mode: StandbyMode) -> None:
        if mode is StandbyMode.OFF and mode is not self._mode:
            self._drop("it is switched off")
        self._mode = mode

    def _want(self, spec: StandbySpec, *, soon: bool) -> None:
        self._refresh()
        if self._mode is StandbyMode.OFF or not is_possible(spec.executable):
            return
        if self._spare and not self._spare.spec.difference(spec):
            self._soon |= soon
            return
        if self._spare and self._soon and not soon:
            return
        self._soon = soon
        self._drop("")
        if self._mode is StandbyMode.AUTO and (memory.available() or 0) < LEAST_FREE_MEMORY:
            self._reason = f"less than {gib(LEAST_FREE_MEMORY, 0)} of memory are free"
            return
        try:
            self._spare = Standby(spec)
        except OSError as error:
            self._reason = f"it cannot be started: {error}"

    def _take(self, spec: StandbySpec) -> Standby | str:
        self._refresh()
        if self._spare is None:
            return self._reason
        if difference := spec.difference(self._spare.spec):
            return difference
        spare, self._spare, self._reason = self._spare, None, "the last start took it"
        return spare

    def _status(self) -> StandbyStatus:
        self._refresh()
        spare = self._spare
        if spare is None:
            return StandbyStatus(self._mode, reason=self._reason)
        return StandbyStatus(self._mode, True, spare.warm, spare.memory, spare.since)

    def _wait_gone(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        gone = [spare.end(max(0.0, deadline - time.monotonic())) for spare in self._leaving]
        self._refresh()
        return all(gone)

    def _close(self) -> None:
        for spare in (self._spare, *self._leaving):
            if spare is not None:
                spare.hang_up()
        self._spare, self._leaving = None, []

    def _refresh(self) -> None:
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
