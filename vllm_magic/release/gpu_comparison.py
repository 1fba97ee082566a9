"""Compare a GPU after a server's end with the same GPU before the start, and while the server ran.

The functions here read no GPU. The driver's figures cannot be used as they are: nvidia-smi's "used" differs between drivers
and versions of the call; figures for each process are missing on WSL2 and MIG, and in some containers they are 0 or have
other pids. So the result depends on the change of memory since a baseline, less the memory that other processes took since
then, if the driver names these processes.

A process that came to the GPU while the server ran, and stays, may be a neighbour. It may also be a process
of the server that is not known: a daemon without the server's mark, or a worker that another daemon started
for the server. The driver does not show which. Neighbours on a GPU are common, so such a process never makes
a release fail. But the proof "NVML memory" would mean that the memory of every new process is back, which is not
true then. So the proof is at most "NVML processes" (every known process of the server is dead, and the driver
lists none of them), and the note names the process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.release.result import Proof
from vllm_magic.sizes import GIB, gib

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.gpu.devices import ComputeProcess, Gpu

TOLERANCE = 64 * 2**20  # bytes; the driver's own share varies a little with the number of its clients
SETTLE_LIMIT = 5.0  # seconds; memory that the driver has not given back by then is never given back
LISTED_LIMIT = (
    2.0  # seconds until the driver has removed ended processes from its list, those of other servers too
)
SMALL_REST = GIB  # bytes; every engine holds more


@dataclass(frozen=True)
class GpuHistory:
    """One GPU that the server used.

    Attributes:
        baseline: the GPU before the start.
        snapshots: the GPU while the server ran, oldest first; empty if it could not be read.
        now: the GPU after the end; None if it cannot be seen any more.
        ours: pids of the server's processes, all of which have ended.
        named: whether the driver listed one of these processes while the server ran, on this GPU or on
            another.
        reused: pids in `ours` that the driver lists now, and that living processes outside the server have.
        young: pids that the driver lists now, of processes that were started after the server.
        hidden: pids that the driver lists now, and for which no living process is visible here.
    """

    baseline: Gpu
    snapshots: tuple[Gpu, ...]
    now: Gpu | None
    ours: frozenset[int]
    named: bool
    reused: frozenset[int] = frozenset()
    young: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()


class MemoryVerdict(NamedTuple):
    """Whether the memory is back, by which proof, and what to note.

    The proof is None where the driver's figures prove nothing more than was already known without them.
    """

    back: bool
    proof: Proof | None
    note: str


def compare(history: GpuHistory, waited: float) -> MemoryVerdict:
    """Return whether the memory of a GPU is back.

    Args:
        history: the GPU.
        waited: seconds waited for the memory so far; infinite for the last attempt.
    """
    where = f"GPU {history.baseline.index}"
    if history.now is None:
        return MemoryVerdict(True, None, f"{where} cannot be seen any more")
    pids = pids_on(history.now)
    if listed := sorted(pids & history.ours - history.reused):
        return MemoryVerdict(False, None, f"{where}: the driver still lists {pid_list(listed)}")
    verdict = _compare_memory(history, history.baseline, history.now, waited)
    ended = sorted({process.pid for process in arrivals(history)} & history.hidden)
    if verdict.back and ended and waited < LISTED_LIMIT:
        return MemoryVerdict(False, None, f"{where}: the driver still lists {pid_list(ended)}")
    return verdict


def arrivals(history: GpuHistory) -> list[ComputeProcess]:
    """Return the processes that compute on the GPU now and did not before the start, except the server's known processes.

    Processes that only draw are left out: they do not use CUDA, and vLLM does nothing on a GPU without CUDA.
    If the driver could not list processes before the start, only processes younger than the server are sure
    to have come.
    """
    if history.now is None:
        return []
    listed_before = history.baseline.processes is not None
    pids_before = pids_on(history.baseline) if listed_before else pids_on(history.now)
    return [
        process
        for process in history.now.processes or ()
        if process.computes
        and (process.pid not in pids_before or process.pid in history.young)
        and (process.pid not in history.ours or process.pid in history.reused)
    ]


def weakened(verdict: MemoryVerdict, history: GpuHistory) -> MemoryVerdict:
    """Return the verdict with a weaker proof, for a GPU to which an unknown process came, and stays (see the module)."""
    if verdict.proof is not Proof.NVML_MEMORY:
        return verdict
    return verdict._replace(proof=Proof.NVML_PROCESSES if history.named else None)


def pids_on(gpu: Gpu | None) -> set[int]:
    """Return the pids that the driver lists on a GPU."""
    return {process.pid for process in (gpu.processes or ())} if gpu else set()


def pid_list(pids: Sequence[int]) -> str:
    """Return pids as text."""
    return "pid " + ", ".join(map(str, pids))


def _compare_memory(history: GpuHistory, baseline: Gpu, now: Gpu, waited: float) -> MemoryVerdict:
    where = f"GPU {baseline.index}"
    if baseline.used is None or now.used is None:
        listed = now.processes is not None and history.named
        return MemoryVerdict(
            True, Proof.NVML_PROCESSES if listed else None, f"{where} does not report its memory"
        )
    if history.named and baseline.processes is not None and _lists_figures(now):
        return _compare_by_process(history, baseline.used, now, now.used, waited)
    if now.used <= baseline.used + TOLERANCE:
        return MemoryVerdict(True, Proof.NVML_MEMORY, "")
    note = f"{where} {_more(now.used - baseline.used)}, and the driver does not say whose that is"
    rest = now.used - _expected_without_names(history, baseline.used, now)
    most_grown = max(
        (snapshot.used - baseline.used for snapshot in history.snapshots if snapshot.used is not None),
        default=None,
    )
    # Without snapshots, nothing shows how much the server held. The rest is accepted after `SETTLE_LIMIT`, so that a failed
    # start waits no longer, and reports its own cause instead of a failed release.
    settled = waited >= SETTLE_LIMIT and (most_grown is None or rest <= min(SMALL_REST, most_grown // 2))
    return MemoryVerdict(rest <= TOLERANCE or settled, None, note)


def _compare_by_process(history: GpuHistory, start: int, now: Gpu, used: int, waited: float) -> MemoryVerdict:
    """Compare the memory in use that no listed process accounts for.

    This needs a driver that lists every computing process and says how much it holds. For the full proof,
    there must be no more of this memory than before the start. Otherwise it is enough that used memory fell
    by what the server's processes held: there is no more of this memory than while these processes were
    listed. A small growth after the last snapshot (a display, the driver's own memory) fails a release only until
    `SETTLE_LIMIT` seconds have passed.
    """
    rest = _unattributed(now, used) - _unattributed(history.baseline, start)
    if rest <= TOLERANCE:
        return MemoryVerdict(True, Proof.NVML_MEMORY, "")
    more = f"GPU {now.index} {_more(rest)}"
    listed_only = MemoryVerdict(
        True, Proof.NVML_PROCESSES, f"{more}, and the driver lists no process that holds it"
    )
    snapshots = [
        (held, snapshot)
        for snapshot in history.snapshots
        if (held := _held(snapshot, history.ours)) is not None
    ]
    most = max((held for held, _ in snapshots), default=None)
    if most is not None:
        # Leave out snapshots at which some of the server's processes had already ended.
        measures = [
            _unattributed(snapshot, snapshot.used or 0) for held, snapshot in snapshots if 2 * held >= most
        ]
        grown = _unattributed(now, used) - measures[-1]
        small = min(SMALL_REST, most // 2) if most else SMALL_REST
        if grown <= TOLERANCE or (grown <= small and waited >= SETTLE_LIMIT):
            return listed_only
    return MemoryVerdict(False, None, f"{more}{_holders(now)}")


def _lists_figures(gpu: Gpu) -> bool:
    """Whether the driver reports how much each computing process holds (not 0 bytes, as in some containers)."""
    return gpu.processes is not None and all(process.used for process in gpu.processes if process.computes)


def _unattributed(gpu: Gpu, used: int) -> int:
    """Return the bytes in use that no listed process accounts for; negative if the driver counts bytes several times."""
    return used - sum(process.used or 0 for process in gpu.processes or ())


def _held(snapshot: Gpu, ours: frozenset[int]) -> int | None:
    """Return the bytes that the server held at this moment; None if the driver did not report them."""
    if snapshot.used is None or not _lists_figures(snapshot):
        return None
    return sum(process.used or 0 for process in snapshot.processes or () if process.pid in ours)


def _expected_without_names(history: GpuHistory, start: int, now: Gpu) -> int:
    """Return the bytes that may be in use if the driver does not name the server's processes: an estimate, not a proof.

    With two snapshots or more, the estimate is the memory used before the stop, less the growth while the server started.
    With one snapshot, it is the memory used before the start. Without a snapshot, as after an early failure, it is
    the memory used before the start, plus what other processes have taken since then, as far as the driver reports it.
    """
    if not history.snapshots:
        return start + _taken_by_others(history, now)
    loaded, before = history.snapshots[0].used, history.snapshots[-1].used
    if len(history.snapshots) == 1 or loaded is None or before is None:
        return start
    return before - max(0, loaded - start)


def _taken_by_others(history: GpuHistory, now: Gpu) -> int:
    """Return the bytes that other processes hold now and did not hold before the start.

    Pids that are not visible here do not count: such a pid may be a process of the server under another
    number (in a container whose driver lists the host's pids).
    """
    then = {process.pid: process.used or 0 for process in history.baseline.processes or ()}
    taken = 0
    for process in now.processes or ():
        before = then.pop(process.pid, 0)
        if process.pid not in history.hidden:
            taken += (process.used or 0) - before
    return taken - sum(then.values())


def _more(count: int) -> str:
    return f"has {gib(count)} more in use than before the start"


def _holders(gpu: Gpu) -> str:
    held = [f"pid {process.pid}: {gib(process.used)}" for process in gpu.processes or () if process.used]
    return f" (in use: {', '.join(held)})" if held else ""
