"""vLLM's processes on this machine, whoever started them, and which of them nobody owns.

vLLM's children give themselves titles (``VLLM::EngineCore``, ``VLLM::Worker_TP0``; `set_process_title` in its
utils/system_utils.py, with $VLLM_PROCESS_NAME_PREFIX in place of VLLM); its API server keeps its command line.
When the API server is killed, engines and workers live on below init and hold the GPU
(vllm-project/vllm#55510, #34643, #19849).

Who is above an engine need not be ``vllm serve``: a script, a notebook, a stub of Triton, uWSGI, whatever uses
``vllm.LLM``, owns one too. An orphan is adopted by init, or by the next process above that has asked for it
(PR_SET_CHILD_SUBREAPER, prctl(2)); /proc does not tell who has, but few programs do, and those are known by name. Every
other parent that lives has started the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.linux import details, processes
from vllm_magic.linux.processes import Process, Table, shown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Programs that adopt orphans and start no engine: init, also as `systemd --user`, those of containers, of WSL 2 and of
# Slurm's steps. As the kernel shows names: 15 characters.
REAPERS = re.compile(
    r"systemd|init|tini|tini-static|docker-init|dumb-init|catatonit|podman-init|conmon|containerd-shim|s6-svscan"
    r"|runsvdir|slurmstepd|Relay\(\d+\)|SessionLeader"
)
_TITLE = re.compile(r"(?P<prefix>\S+?)::(?P<role>\S+)")
_ROLES = re.compile(r"(EngineCore|Worker|APIServer|ApiServer|DPCoordinator)(_\w+)?")
_NOT_VLLM = "ray"  # ray::Worker is somebody's actor
_ENTRY_POINTS = "vllm.entrypoints."
_GUARD = "/vllm_magic/guard/run.py"


class Role(str, Enum):
    """What a process of vLLM is."""

    SERVER = "server"  # `vllm serve`, the API server that starts all others
    PART = "part"  # what it, or a program that uses vllm.LLM, has started


class Owner(str, Enum):
    """Who answers for a tree of vLLM's processes."""

    OURS = "ours"  # a server of the ledger
    ITSELF = "itself"  # a `vllm serve` that was started elsewhere
    STARTER = "starter"  # the program that started the engine, which lives
    NOBODY = "nobody"


@dataclass(frozen=True)
class Tree:
    """A process of vLLM with no other process of vLLM above it, and the living ones below.

    Attributes:
        root: the topmost.
        processes: all of them, the root first.
        role: what the root is.
        owner: who answers for it.
        above: the parent of the root as text, "" where that is init or not visible.
        uid: the root's user; None where that is not known.
    """

    root: Process
    processes: tuple[Process, ...]
    role: Role
    owner: Owner
    above: str
    uid: int | None

    @property
    def pids(self) -> frozenset[int]:
        """The pids of all of them."""
        return frozenset(one.identity.pid for one in self.processes)


def trees(table: Table, ours: Iterable[int] = ()) -> list[Tree]:
    """Every tree of vLLM's processes that is visible, by the pid of its root.

    Args:
        table: the processes now.
        ours: pids of the ledger's servers.
    """
    roles = {pid: found for pid, process in table.items() if process.alive and (found := role(process))}
    mine = frozenset(ours)
    return [
        _tree(table, roles, table[pid], mine) for pid in sorted(roles) if _above(table, roles, pid) is None
    ]


def role(process: Process) -> Role | None:
    """What the process is in vLLM; None where it is none of vLLM's."""
    match = _TITLE.match(shown_name(process))
    if match and match["prefix"] != _NOT_VLLM:
        if match["prefix"].startswith("VLLM") or _ROLES.fullmatch(match["role"]):
            return Role.SERVER if match["role"] == "APIServer" else Role.PART
        return None
    # A process in state D may hold the lock that a read of its command line waits for.
    words = [] if process.state == "D" else details.arguments(process.identity.pid)
    return Role.SERVER if serves(words) else None


def serves(words: list[str]) -> bool:
    """Whether this command line is ``vllm serve`` or ``python -m vllm.entrypoints...``."""
    if not words:
        return False
    if _name(words[0]) == "vllm":
        return words[1:2] == ["serve"]
    if not _name(words[0]).startswith("python"):
        return False
    for position, word in enumerate(words[1:], 1):
        behind = words[position + 1 : position + 3]
        if word == "-m":
            return bool(behind) and (behind[0].startswith(_ENTRY_POINTS) or behind == ["vllm", "serve"])
        if not word.startswith("-"):
            return _name(word) == "vllm" and behind[:1] == ["serve"]
    return False


def called(process: Process) -> str:
    """A process of vLLM as a person knows it: its title, or the command line up to the model."""
    words = details.arguments(process.identity.pid) if process.state != "D" else []
    if not serves(words):
        return details.short_title(process)
    start = next(
        at for at, word in enumerate(words) if _name(word) == "vllm" or word.startswith(_ENTRY_POINTS)
    )
    model = flags.value(words, "--model") or "".join(
        word for word in words[start + 2 : start + 3] if word[:1] != "-"
    )
    name = "vllm serve" if _name(words[start]) == "vllm" else words[start]
    return f"{name} {model}".rstrip()


def starter(table: Table, process: Process) -> Process | None:
    """The parent of a server or an engine, where it can have started it; None where it adopted it.

    Process 1 of a container may be the program that uses an engine. That one has started it by multiprocessing, hence
    with its own program and in its own session.
    """
    parent = table.get(process.parent)
    if parent is None or not parent.alive:
        return None
    # A guard of another state folder counts as well: it ends what it adopts.
    if parent.identity.pid != processes.INIT:
        return None if REAPERS.fullmatch(parent.name) else parent
    if role(process) is Role.SERVER:
        return None
    theirs, its = details.program(processes.INIT), details.program(process.identity.pid)
    return parent if theirs is not None and theirs == its and parent.session == process.session else None


def _tree(table: Table, roles: Mapping[int, Role], root: Process, ours: frozenset[int]) -> Tree:
    pid = root.identity.pid
    below = processes.descendants(table, pid)
    members = (root, *(table[one] for one in sorted(below) if table[one].alive))
    above = starter(table, root)
    if {one.identity.pid for one in members} & ours:
        owner = Owner.OURS
    elif roles[pid] is Role.SERVER:
        owner = Owner.ITSELF
    else:
        owner = Owner.NOBODY if above is None and root.parent in table else Owner.STARTER
    text = ""
    if above is not None:
        title = "a guard of vllm_magic" if _GUARD in shown_name(above) else details.short_title(above)
        text = f"{title} (pid {above.identity.pid})"
    return Tree(root, members, roles[pid], owner, text, details.uid(pid))


def _above(table: Table, roles: Mapping[int, Role], pid: int) -> int | None:
    """The next process of vLLM above this one."""
    seen = {pid}
    while pid in table and (pid := table[pid].parent) not in seen:
        if pid in roles:
            return pid
        seen.add(pid)
    return None


def _name(path: str) -> str:
    return path.rpartition("/")[2]
