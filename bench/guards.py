"""What a guard pair costs, from /proc (proc_pid_smaps(5), proc_pid_status(5))."""

from __future__ import annotations

from pathlib import Path

from vllm_magic.linux import processes


def of(leader: int) -> tuple[int, int]:
    """Return the pids of the guards: the leader's parent is the inner one, and that one's the outer one.

    Raises:
        RuntimeError: there is no such process.
    """
    inner = _parent(leader)
    return inner, _parent(inner)


def private_bytes(pids: tuple[int, ...]) -> int:
    """Return the memory that these processes share with no other, in bytes."""
    return sum(
        1024 * _sum(Path(f"/proc/{pid}/smaps_rollup"), ("Private_Clean:", "Private_Dirty:")) for pid in pids
    )


def context_switches(pids: tuple[int, ...]) -> int:
    """Return how often the kernel has switched away from these processes, all their threads together."""
    names = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
    return sum(_sum(path, names) for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/status"))


def _sum(path: Path, names: tuple[str, ...]) -> int:
    lines = [line.split() for line in path.read_text().splitlines()]
    found = [int(words[1]) for words in lines if words and words[0] in names]
    if len(found) != len(names):
        raise RuntimeError(f"{path} does not have {' and '.join(names)}")
    return sum(found)


def _parent(pid: int) -> int:
    process = processes.read(pid)
    if process is None:
        raise RuntimeError(f"there is no process {pid}")
    return process.parent
