"""The processes of vLLM's two ways of a fast start, which hold GPU memory and belong to no server (0.31 and newer).

``vllm preload`` starts one weight cache daemon for each GPU, which keeps the weights for engines to come (`_run_daemon`
in vllm/model_executor/model_loader/weight_cache/daemon.py). A daemon has no title; multiprocessing spawns it, so
its command line is that of any spawned process. While it serves it holds a lock on a file with the name of its socket
(`_acquire_gpu_lock` there; `SOCKET_NAME_TEMPLATE` in protocol.py), by which it is known when ``vllm preload`` is gone.

``vllm snapshot create`` and ``restore`` run an engine below ``python -m vllm.snapshot.server`` (`launch_child` in
vllm/snapshot/runtime.py). After a restore that process is below init, and answers requests.

Read in vLLM 0.32.0.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.engine.flags import flags
from vllm_magic.linux import details, processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.linux.processes import Process, Table

_LOCK = re.compile(r".*/vllm_weight_cache_[^/]*\.sock\.lock")
_SPAWNED = "from multiprocessing.spawn import spawn_main"
_SNAPSHOT_SERVER = "vllm.snapshot.server"


class FastStart(str, Enum):
    """What starts the process."""

    PRELOAD = "vllm preload"
    SNAPSHOT = "vllm snapshot"


_COMMANDS = {"preload": FastStart.PRELOAD, "snapshot": FastStart.SNAPSHOT}


class Origin(NamedTuple):
    """Where a process of a fast start comes from.

    Attributes:
        kind: what starts it.
        root: the process of the command, or of the snapshot's server; the daemon itself where its command is gone.
    """

    kind: FastStart
    root: Process


def origin(table: Table, pid: int) -> Origin | None:
    """Return where a process comes from; None where it is no process of a fast start."""
    passed: set[int] = set()
    above = pid
    while (process := table.get(above)) is not None and above not in passed:
        passed.add(above)
        if found := kind(_arguments(process)):
            return Origin(found, process)
        above = process.parent
    process = table.get(pid)
    if process is None or not is_daemon(process, _arguments(process)):
        return None
    return Origin(FastStart.PRELOAD, process)


def kind(arguments: Sequence[str]) -> FastStart | None:
    """Return the fast start to which this command line belongs; None if it belongs to none."""
    program, *words = _without_python(arguments) or [""]
    name = program.rpartition("/")[2]
    if name == _SNAPSHOT_SERVER:
        return FastStart.SNAPSHOT
    return _COMMANDS.get(words[0]) if name == "vllm" and words else None


def is_daemon(process: Process, arguments: Sequence[str]) -> bool:
    """Whether this is a weight cache daemon that serves, by the lock that it holds. Daemons of other users cannot be recognized."""
    if process.state == "D" or not any(_SPAWNED in argument for argument in arguments):
        return False
    return any(map(_LOCK.fullmatch, processes.open_files(process.identity.pid).values()))


def title(arguments: Sequence[str]) -> str:
    """Return the command line of a fast start for a person: its command and its model."""
    found = kind(arguments)
    if found is None:
        return FastStart.PRELOAD.value
    model = flags.value(arguments, "--model")
    # For a snapshot's server, `launch_child` puts the engine's arguments after "--".
    if model is None and "--" in arguments:
        model = next(iter(arguments[arguments.index("--") + 1 :]), "")
    return f"{found.value} {model or ''}".rstrip()


def _without_python(arguments: Sequence[str]) -> Sequence[str]:
    """Return a command line without Python and its options: it begins with the script or module that Python runs."""
    if not arguments or not arguments[0].rpartition("/")[2].startswith("python"):
        return arguments
    start = next(
        (at for at, argument in enumerate(arguments) if at > 0 and not argument.startswith("-")), None
    )
    return [] if start is None else arguments[start:]


def _arguments(process: Process) -> list[str]:
    # A process in state D may hold the lock that a read of its command line waits for.
    return [] if process.state == "D" else details.arguments(process.identity.pid)
