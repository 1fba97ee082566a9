"""Several models on one GPU, one at a time: who is in the way sleeps, or is stopped, before another one is ready."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.server.server import ServerState, run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.manager.manager import Manager
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server
    from vllm_magic.server.sleep_mode import SleepResult

# One server that falls asleep while another one wakes up on the same GPU can hang both (vllm#37065). Comes before the
# registry's lock.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Switch:
    """What `switch` did: the server that is ready now, and what was done for it, in that order."""

    server: Server
    done: tuple[SleepResult | Release, ...]


def sleep(manager: Manager, name: str | None = None, level: int = 1) -> SleepResult:
    """Have a server give its VRAM back and keep its processes. Without a name the only one there is.

    Raises:
        ServerNotFound: there is none of this name, or not exactly one.
        SleepFailed: see `Server.sleep`.
    """
    with _one_at_a_time:
        return manager.get(name).sleep(level)


def wake(manager: Manager, name: str | None = None) -> SleepResult:
    """Wake a server up. Raises what `sleep` raises."""
    with _one_at_a_time:
        return manager.get(name).wake()


def switch(
    manager: Manager,
    spec: ServerSpec,
    *,
    timeout: float | None = None,
    report: Callable[[Server], None] | None = None,
) -> Switch:
    """Have this server ready, with the others out of its way: asleep where they can sleep, else stopped.

    Args:
        manager: has the servers.
        spec: what to serve.
        timeout: seconds to wait for a start; after that it is released.
        report: called in this thread again and again while it waits for a start.

    Raises:
        VllmMagicError: what a start, a stop and `sleep` raise; what is done by then stays done.
    """
    with _one_at_a_time:
        manager.expect(spec)
        moved = [_move_away(manager, other) for other in _in_the_way(manager, spec)]
        server = manager.start(spec, timeout=timeout, report=report).server
        if run_of(server).sleep_mode.is_asleep() or server.asleep:
            moved.append(server.wake())
        return Switch(server, tuple(moved))


def _in_the_way(manager: Manager, spec: ServerSpec) -> list[Server]:
    """The servers that hold memory of GPUs which this one may use, as far as the specs tell."""
    return [
        other
        for other in manager.servers().values()
        if other.name != spec.name
        and not other.state.over
        and other.spec.cluster == spec.cluster
        and not _apart(other.spec.gpus, spec.gpus)
        and not (other.state is ServerState.READY and run_of(other).sleep_mode.is_asleep())
    ]


def _move_away(manager: Manager, server: Server) -> SleepResult | Release:
    if run_of(server).sleep_mode.available and server.state is ServerState.READY:
        return server.sleep()
    return manager.stop(server.name)


def _apart(one: str | None, other: str | None) -> bool:
    """Whether two ``--gpus`` have nothing in common for sure; without indices nobody knows."""
    if not one or not other:
        return False
    parts = [text.strip() for text in f"{one},{other}".split(",")]
    return all(part.isdecimal() for part in parts) and len(set(parts)) == len(parts)
