"""Serve several models on one GPU, one at a time: the other servers sleep or are stopped before one is started or woken up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.server.gpu_turns import TURNS, GpuSet
from vllm_magic.server.server import ServerState, run_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.manager.manager import Manager
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server
    from vllm_magic.server.sleep_mode import SleepResult


@dataclass(frozen=True)
class Switch:
    """The result of `switch`: the server that is ready now, and what was done before, in that order."""

    server: Server
    done: tuple[SleepResult | Release, ...]


def switch(
    manager: Manager,
    spec: ServerSpec,
    *,
    timeout: float | None = None,
    report: Callable[[Server], None] | None = None,
) -> Switch:
    """Make this server ready. Before that, put the other servers on its GPUs to sleep; stop those that cannot sleep.

    Args:
        manager: the manager of the servers.
        spec: the spec of the server.
        timeout: seconds to wait for a start, after which the server is released; None for no limit.
        report: called with the server, in this thread, repeatedly during the wait for a start.

    Raises:
        VllmMagicError: the errors of a start, a stop and `Server.sleep`. What was done before the error is not undone.
    """
    while True:
        gpus = _gpus(manager, spec)
        with TURNS.turn(*gpus):
            # Another server may have been started before this turn, perhaps on other GPUs too.
            if _gpus(manager, spec) <= gpus:
                return _switch(manager, spec, timeout, report)


def _switch(
    manager: Manager, spec: ServerSpec, timeout: float | None, report: Callable[[Server], None] | None
) -> Switch:
    manager.check(spec)
    manager.expect(spec)
    done = [
        _move_away(manager, other)
        for other in _on_same_gpus(manager, spec)
        if not (other.state is ServerState.READY and run_of(other).sleep_mode.is_asleep())
    ]
    server = manager.start(spec, timeout=timeout, report=report).server
    if run_of(server).sleep_mode.is_asleep() or server.asleep:
        done.append(server.wake())
    return Switch(server, tuple(done))


def _gpus(manager: Manager, spec: ServerSpec) -> frozenset[GpuSet]:
    """Return the GPUs of this server, and those of all servers that are put to sleep or stopped for it."""
    return frozenset(
        GpuSet.of(one) for one in (spec, *(server.spec for server in _on_same_gpus(manager, spec)))
    )


def _on_same_gpus(manager: Manager, spec: ServerSpec) -> list[Server]:
    """Return the other servers that may hold memory of a GPU that this server may use."""
    return [
        other
        for other in manager.servers().values()
        if other.name != spec.name
        and not other.state.over
        and GpuSet.of(other.spec).may_overlap(GpuSet.of(spec))
    ]


def _move_away(manager: Manager, server: Server) -> SleepResult | Release:
    if run_of(server).sleep_mode.available and server.state is ServerState.READY:
        return server.sleep()
    return manager.stop(server.name)
