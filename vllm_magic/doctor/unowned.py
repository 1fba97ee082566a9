"""The vLLM processes on this machine, whoever started them, and which of them nobody owns.

vLLM's children give themselves titles (``VLLM::EngineCore``, ``VLLM::Worker_TP0``; `set_process_title` in its
utils/system_utils.py, with $VLLM_PROCESS_NAME_PREFIX in place of VLLM); its API server keeps its command line.
When the API server is killed, engines and workers live on below init and hold the GPU
(vllm-project/vllm#55510, #34643, #19849).

The parent of an engine need not be ``vllm serve``: a script, a notebook, a stub of Triton, uWSGI, or any program that
uses ``vllm.LLM``, owns an engine too. An orphan is adopted by init, or by the nearest ancestor that is a subreaper
(PR_SET_CHILD_SUBREAPER, prctl(2)). /proc does not tell which processes are subreapers, but few programs are, and these are
known by name. Every other living parent has started the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from vllm_magic.engine import fast_start
from vllm_magic.engine.fast_start import FastStart
from vllm_magic.engine.flags import flags
from vllm_magic.linux import details, processes
from vllm_magic.linux.processes import Process, Table, shown_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Programs that adopt orphans and start no engine: init, also as `systemd --user`, and those of containers, of WSL 2 and of
# Slurm's steps. Their names are as the kernel shows them: 15 characters.
REAPERS = re.compile(
    r"systemd|init|tini|tini-static|docker-init|dumb-init|catatonit|podman-init|conmon|containerd-shim|s6-svscan"
    r"|runsvdir|slurmstepd|Relay\(\d+\)|SessionLeader"
)
_TITLE = re.compile(r"(?P<prefix>\S+?)::(?P<role>\S+)")
_ROLES = re.compile(r"(EngineCore|Worker|APIServer|ApiServer|DPCoordinator)(_\w+)?")
_NOT_VLLM = "ray"  # ray::Worker is an actor of any Ray program
_ENTRY_POINTS = "vllm.entrypoints."
_GUARD = "/vllm_magic/guard/run.py"


class Role(str, Enum):
    """The role of a vLLM process."""

    SERVER = "server"  # `vllm serve`, the API server that starts all others
    PART = "part"  # a process that a server, or a program that uses vllm.LLM, has started
    CACHE = "cache"  # `vllm preload`, and a weight cache daemon that has outlived it, as it is meant to


class Owner(str, Enum):
    """The owner of a tree of vLLM processes."""

    OURS = "ours"  # a server of the ledger
    ITSELF = "itself"  # a `vllm serve`, `preload` or `snapshot` that was started elsewhere
    STARTER = "starter"  # the living program that started the engine
    NOBODY = "nobody"


@dataclass(frozen=True)
class Tree:
    """A vLLM process with no other vLLM process above it, and its living descendants.

    Attributes:
        root: the topmost process.
        processes: all processes of the tree, the root first.
        role: the role of the root.
        owner: the owner of the tree.
        above: the parent of the root as text; "" where the parent is init or not visible.
        uid: the user id of the root; None where it is not known.
    """

    root: Process
    processes: tuple[Process, ...]
    role: Role
    owner: Owner
    above: str
    uid: int | None

    @property
    def pids(self) -> frozenset[int]:
        """The pids of all processes of the tree."""
        return frozenset(process.identity.pid for process in self.processes)


def trees(table: Table, ours: Iterable[int] = ()) -> list[Tree]:
    """Return every visible tree of vLLM processes, in the order of the pids of their roots.

    Args:
        table: the table of processes.
        ours: the pids of the ledger's servers.
    """
    roles = {pid: found for pid, process in table.items() if process.alive and (found := role(process))}
    mine = frozenset(ours)
    return [
        _tree(table, roles, table[pid], mine) for pid in sorted(roles) if _above(table, roles, pid) is None
    ]


def role(process: Process) -> Role | None:
    """Return the role of a process; None where it is not a vLLM process."""
    match = _TITLE.match(shown_name(process))
    if match and match["prefix"] != _NOT_VLLM:
        if match["prefix"].startswith("VLLM") or _ROLES.fullmatch(match["role"]):
            return Role.SERVER if match["role"] == "APIServer" else Role.PART
        return None
    # A process in state D may hold the lock that a read of its command line waits for.
    arguments = [] if process.state == "D" else details.arguments(process.identity.pid)
    started = fast_start.kind(arguments)
    if started is FastStart.PRELOAD or fast_start.is_daemon(process, arguments):
        return Role.CACHE
    return Role.SERVER if started is FastStart.SNAPSHOT or serves(arguments) else None


def serves(arguments: list[str]) -> bool:
    """Whether this command line is ``vllm serve`` or ``python -m vllm.entrypoints...``."""
    if not arguments:
        return False
    if _name(arguments[0]) == "vllm":
        return arguments[1:2] == ["serve"]
    if not _name(arguments[0]).startswith("python"):
        return False
    for position, argument in enumerate(arguments[1:], 1):
        behind = arguments[position + 1 : position + 3]
        if argument == "-m":
            return bool(behind) and (behind[0].startswith(_ENTRY_POINTS) or behind == ["vllm", "serve"])
        if not argument.startswith("-"):
            return _name(argument) == "vllm" and behind[:1] == ["serve"]
    return False


def display_name(process: Process) -> str:
    """Return the name of a vLLM process for a person: its title, or its command line up to the model."""
    arguments = details.arguments(process.identity.pid) if process.state != "D" else []
    if fast_start.kind(arguments) or fast_start.is_daemon(process, arguments):
        return fast_start.title(arguments)
    if not serves(arguments):
        return details.short_title(process)
    start = next(
        at
        for at, argument in enumerate(arguments)
        if _name(argument) == "vllm" or argument.startswith(_ENTRY_POINTS)
    )
    model = flags.value(arguments, "--model") or "".join(
        argument for argument in arguments[start + 2 : start + 3] if argument[:1] != "-"
    )
    name = "vllm serve" if _name(arguments[start]) == "vllm" else arguments[start]
    return f"{name} {model}".rstrip()


def holder_name(tree: Tree, process: Process) -> str:
    """Return the name of a process of a tree that holds GPU memory: for a fast start, what it was started for too."""
    if tree.role is Role.CACHE:
        return f"weight cache of {display_name(tree.root)}"
    name = details.short_title(process)
    arguments = details.arguments(tree.root.identity.pid)
    return f"{name} of {fast_start.title(arguments)}" if fast_start.kind(arguments) else name


def starter(table: Table, process: Process) -> Process | None:
    """Return the parent of a server or an engine if it can have started the process; None where it has adopted it.

    Process 1 of a container may be the program that uses an engine. It has then started the engine by multiprocessing,
    so the engine has the same executable and the same session as process 1.
    """
    parent = table.get(process.parent)
    if parent is None or not parent.alive:
        return None
    # A guard of another state folder counts too: it ends the processes that it adopts.
    if parent.identity.pid != processes.INIT:
        return None if REAPERS.fullmatch(parent.name) else parent
    if role(process) is Role.SERVER:
        return None
    theirs, its = details.program(processes.INIT), details.program(process.identity.pid)
    return parent if theirs is not None and theirs == its and parent.session == process.session else None


def _tree(table: Table, roles: Mapping[int, Role], root: Process, ours: frozenset[int]) -> Tree:
    pid = root.identity.pid
    below = processes.descendants(table, pid)
    members = (root, *(table[descendant] for descendant in sorted(below) if table[descendant].alive))
    above = starter(table, root)
    if {process.identity.pid for process in members} & ours:
        owner = Owner.OURS
    elif roles[pid] is not Role.PART:
        owner = Owner.ITSELF
    else:
        owner = Owner.NOBODY if above is None and root.parent in table else Owner.STARTER
    text = ""
    if above is not None:
        title = "a guard of vllm_magic" if _GUARD in shown_name(above) else details.short_title(above)
        text = f"{title} (pid {above.identity.pid})"
    return Tree(root, members, roles[pid], owner, text, details.uid(pid))


def _above(table: Table, roles: Mapping[int, Role], pid: int) -> int | None:
    """Return the pid of the nearest vLLM process above this one; None where there is none."""
    passed = {pid}
    while pid in table and (pid := table[pid].parent) not in passed:
        if pid in roles:
            return pid
        passed.add(pid)
    return None


def _name(path: str) -> str:
    return path.rpartition("/")[2]
