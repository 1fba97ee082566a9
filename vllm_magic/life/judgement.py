"""Judging one GPU after a server's end, from how it was before the start, how it was while the server ran, and now.

Nothing here looks at anything. What the driver's figures are worth is known (nvidia-smi's "used" differs between
drivers and versions of the call; per-process figures are absent on WSL2 and MIG, are 0 or carry other pids in some
containers): memory is judged by what changed since a baseline, and what other processes took since then is taken
off where the driver names them.

Who came while the server ran, and stays, may be a neighbour or a process of the server's that nobody knows of: a daemon
without its mark, a worker that another daemon started for it. The driver does not tell which. So such a holder never
makes a release fail, since a neighbour on the GPU is an everyday thing; but "NVML memory" says that everything that came
is gone again, and it is not: the proof is "NVML processes" at most, which says just what is known (every process of the
server that is known is dead, and the driver lists none of them), and the note names the holder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.release import Proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.gpu.devices import ComputeProcess, Gpu

TOLERANCE = 64 * 2**20  # bytes; the driver's own share moves a little with the number of its clients
SETTLED = 5.0  # seconds after which what is still in use stays so: a driver gives back in less, or not at all
FORGOTTEN = 2.0  # seconds for the driver to forget processes that have ended, of other servers too
SMALL_REST = 2**30  # bytes; no engine holds so little


@dataclass(frozen=True)
class Case:
    """One GPU that the server used.

    Attributes:
        baseline: before the start.
        looks: while the server ran, oldest first; none where nobody could look.
        now: after the end; None where it is not in sight any more.
        ours: pids of the server's processes, all of which have ended.
        named: whether the driver listed one of them while the server ran, on this GPU or on another.
        reused: pids that the driver lists now and that belong to living processes, none of them the server's.
        young: pids that the driver lists now, of processes that were started after the server.
        hidden: pids that the driver lists now and that no living process has here.
    """

    baseline: Gpu
    looks: tuple[Gpu, ...]
    now: Gpu | None
    ours: frozenset[int]
    named: bool
    reused: frozenset[int] = frozenset()
    young: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()


class Judgement(NamedTuple):
    """Whether the memory is back, by which proof (None: no more than was known without the driver), and what to note."""

    back: bool
    proof: Proof | None
    note: str


def judge(case: Case, waited: float) -> Judgement:
    """Judge the memory of one GPU.

    Args:
        case: the GPU.
        waited: seconds since the server's end; infinite for the last look.
    """
    where = f"GPU {case.baseline.index}"
    if case.now is None:
        return Judgement(True, None, f"{where} cannot be seen any more")
    pids = pids_on(case.now)
    if listed := sorted(pids & case.ours - case.reused):
        return Judgement(False, None, f"{where}: the driver still lists {pid_list(listed)}")
    judged = _judge_memory(case, case.baseline, case.now, waited)
    ended = sorted({one.pid for one in arrivals(case)} & case.hidden)
    if judged.back and ended and waited < FORGOTTEN:
        return Judgement(False, None, f"{where}: the driver still lists {pid_list(ended)}")
    return judged


def arrivals(case: Case) -> list[ComputeProcess]:
    """Who computes on the GPU now, did not before the start, and is not known to be the server's.

    Who only draws has no CUDA, without which vLLM does nothing on a GPU. Where the driver listed nobody before the start,
    only those have come for sure that are younger than the server.
    """
    if case.now is None:
        return []
    before = case.baseline.processes
    then = pids_on(case.baseline) if before is not None else pids_on(case.now)
    return [
        one
        for one in case.now.processes or ()
        if one.computes
        and (one.pid not in then or one.pid in case.young)
        and (one.pid not in case.ours or one.pid in case.reused)
    ]


def weakened(judged: Judgement, case: Case) -> Judgement:
    """The same where somebody came who stays: see above."""
    if judged.proof is not Proof.NVML_MEMORY:
        return judged
    return judged._replace(proof=Proof.NVML_PROCESSES if case.named else None)


def pids_on(gpu: Gpu | None) -> set[int]:
    """The pids that the driver lists on a GPU."""
    return {process.pid for process in (gpu.processes or ())} if gpu else set()


def pid_list(pids: Sequence[int]) -> str:
    """Pids as text."""
    return "pid " + ", ".join(map(str, pids))


def _judge_memory(case: Case, baseline: Gpu, now: Gpu, waited: float) -> Judgement:
    where = f"GPU {baseline.index}"
    if baseline.used is None or now.used is None:
        listed = now.processes is not None and case.named
        return Judgement(
            True, Proof.NVML_PROCESSES if listed else None, f"{where} does not report its memory"
        )
    if case.named and baseline.processes is not None and _says_how_much(now):
        return _judge_by_names(case, baseline.used, now, now.used, waited)
    if now.used <= baseline.used + TOLERANCE:
        return Judgement(True, Proof.NVML_MEMORY, "")
    note = f"{where} {_more(now.used - baseline.used)}, and the driver does not say whose that is"
    rest = now.used - _expected_without_names(case, baseline.used, now)
    came = max((look.used - baseline.used for look in case.looks if look.used is not None), default=None)
    # A failed start on a GPU of which the driver says little is not held up for long, and keeps its own cause.
    settled = waited >= SETTLED and (came is None or rest <= min(SMALL_REST, came // 2))
    return Judgement(rest <= TOLERANCE or settled, None, note)


def _judge_by_names(case: Case, start: int, now: Gpu, used: int, waited: float) -> Judgement:
    """Where the driver names all who compute and what they hold: by what nobody is named for.

    That must be no more than before the start for the full proof. Else it is enough that used memory fell by what the
    server's processes held: that there is no more of it than while these were listed. What came a little later than the
    last look (a display, the driver's own) is not held against the server for ever.
    """
    rest = _nameless(now, used) - _nameless(case.baseline, start)
    if rest <= TOLERANCE:
        return Judgement(True, Proof.NVML_MEMORY, "")
    more = f"GPU {now.index} {_more(rest)}"
    told = Judgement(True, Proof.NVML_PROCESSES, f"{more}, and the driver names nobody for it")
    looks = [(held, look) for look in case.looks if (held := _held(look, case.ours)) is not None]
    most = max((held for held, _ in looks), default=None)
    if most is not None:
        # One of those at which some of the server's processes had ended already is no measure.
        measures = [_nameless(look, look.used or 0) for held, look in looks if 2 * held >= most]
        grown = _nameless(now, used) - measures[-1]
        small = min(SMALL_REST, most // 2) if most else SMALL_REST
        if grown <= TOLERANCE or (grown <= small and waited >= SETTLED):
            return told
    return Judgement(False, None, f"{more}{_names(now)}")


def _says_how_much(gpu: Gpu) -> bool:
    """Whether the driver says of everybody who computes what that process holds; 0 bytes is what some containers say."""
    return gpu.processes is not None and all(one.used for one in gpu.processes if one.computes)


def _nameless(gpu: Gpu, used: int) -> int:
    """Bytes in use that no listed process accounts for; below 0 where several are told to hold the same ones."""
    return used - sum(process.used or 0 for process in gpu.processes or ())


def _held(look: Gpu, ours: frozenset[int]) -> int | None:
    """Bytes that the server held; None where the driver said nothing of use."""
    if look.used is None or not _says_how_much(look):
        return None
    return sum(process.used or 0 for process in look.processes or () if process.pid in ours)


def _expected_without_names(case: Case, start: int, now: Gpu) -> int:
    """What may be in use where the driver does not name the server's processes: an estimate, and no proof.

    That is what was used before the stop less what came while the server started. For one that never came
    so far it is what others are said to have taken.
    """
    if not case.looks:
        return start + _taken_by_others(case, now)
    loaded, before = case.looks[0].used, case.looks[-1].used
    if len(case.looks) == 1 or loaded is None or before is None:
        return start
    return before - max(0, loaded - start)


def _taken_by_others(case: Case, now: Gpu) -> int:
    """Bytes that others hold now and did not hold before the start.

    What a pid took that is not visible here is not taken off: it may be one of the server's under another number (a
    container that sees the host's pids).
    """
    then = {process.pid: process.used or 0 for process in case.baseline.processes or ()}
    taken = 0
    for process in now.processes or ():
        before = then.pop(process.pid, 0)
        if process.pid not in case.hidden:
            taken += (process.used or 0) - before
    return taken - sum(then.values())


def _more(count: int) -> str:
    return f"has {count / 2**30:.2f} GiB more in use than before the start"


def _names(gpu: Gpu) -> str:
    held = [
        f"pid {process.pid}: {process.used / 2**30:.2f} GiB"
        for process in gpu.processes or ()
        if process.used
    ]
    return f" (in use: {', '.join(held)})" if held else ""
