"""The interface that proves a release, on this machine or on the nodes of a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from vllm_magic.engine.failures.explanations import Failure
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.linux.processes import Identity
    from vllm_magic.release.result import EndedProcess, GpuMemory, Proof


class Verdict(NamedTuple):
    """The result of `Verifier.verify`.

    A stop succeeds if ``verified`` is true: every known process of the server has ended, and the memory that they held is
    back. A process that came to the GPU meanwhile, and whose owner is unknown, does not change ``verified``; it weakens
    ``proof`` and is named in ``note`` (see `gpu_comparison`).
    """

    proof: Proof
    verified: bool
    vram: tuple[GpuMemory, ...]
    note: str
    elsewhere: tuple[EndedProcess, ...] = ()  # the processes that ended on other machines
    may_recheck: bool = False  # whether another check may give a better result
    left_alone: str = ""  # the processes with the server's environment that do not belong to it


class Verifier(Protocol):
    """Observes the GPUs before, during and after the life of one server. Not thread-safe.

    Attributes:
        baseline: the GPUs of this machine before the start; none if the server runs on other machines.
        chosen: the UUIDs of the GPUs that the server may use; empty when vLLM chooses.
        known: the server's processes, as far as they were passed to the verifier.
        failure: why the server ended, if the verifier knows more than the log shows.
    """

    baseline: Snapshot
    chosen: frozenset[str]
    known: set[Identity]
    failure: Failure | None

    def observe_ready(self, members: Collection[Identity] = ()) -> None:
        """Remember the processes of the ready server, and the memory that they hold."""

    def observe_before_stop(self, members: Collection[Identity] = (), *, in_a_hurry: bool = True) -> None:
        """Remember the processes of the server just before its end, and the memory that they hold.

        In a hurry the GPUs are read only if that takes moments and starts no process.
        """

    def observe_now(self) -> Snapshot:
        """Return the GPUs of this machine as they are now."""

    def packed(self) -> dict[str, Any] | None:
        """Return the verifier as JSON, for a later check by another kernel; None if that needs no data."""

    def verify(self, ended: Collection[Identity], leader: Identity | None = None) -> Verdict:
        """Check that the processes are gone and the memory is back; wait for memory that comes late.

        Args:
            ended: the processes that were ended.
            leader: the leader of the server's session, or None.
        """
