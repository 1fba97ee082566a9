"""Serve several models on one GPU, one at a time: put the other servers to sleep, or stop them, before a server becomes ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.errors import StartInterrupted, VllmMagicError
from vllm_magic.manager.restoring import Restoration, left_alone
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
    """The result of `switch`.

    Attributes:
        server: the server that is ready now.
        done: the sleeps and releases of the other servers, and the wake-up of this one, in the order in which they were done.
    """

    server: Server
    done: tuple[SleepResult | Release, ...]


def switch(
    manager: Manager,
    spec: ServerSpec,
    *,
    timeout: float | None = None,
    restore: bool = True,
    report: Callable[[Server], None] | None = None,
) -> Switch:
    """Make this server ready. Before that, put the other servers on its GPUs to sleep; stop those that cannot sleep.

    If the server fails, the other servers come back: sleeping servers are woken up, and stopped servers are started again with
    the same spec. The error is raised when they are ready.

    An interrupt is handled as a failure, because the user no longer wants this server and has no other server. But the user also
    wants the prompt at once: sleeping servers are woken up, which takes seconds, and this call does not wait until stopped
    servers are ready. A second interrupt leaves the other servers as they are.

    Args:
        manager: the manager of the servers.
        spec: the spec of the server.
        timeout: seconds to wait for the start, after which the server is released; None for no limit. The wait for a server that
            comes back has the same limit, but a server that comes back is not released.
        restore: whether the other servers come back.
        report: called in this thread, repeatedly during a wait, with the server that starts: this server, or, after a failure,
            a server that comes back.

    Raises:
        StartInterrupted: the call was interrupted after it had begun to put a server to sleep, to stop one, or to start one.
        VllmMagicError: any error of a start, a stop and `Server.sleep`. Its message ends with what happened to the other servers.
    """
    while True:
        gpus = _gpus(manager, spec)
        with TURNS.turn(*gpus):
            # During the wait for this turn, another server may have started, perhaps also on GPUs outside this turn.
            if not _gpus(manager, spec) <= gpus:
                continue
            moved: list[Server] = []
            try:
                return _switch(manager, spec, moved, timeout, report)
            except (VllmMagicError, KeyboardInterrupt) as error:
                if not moved:
                    raise
                interrupted = StartInterrupted(f"The switch to {spec.name} was interrupted")
                failure = error if isinstance(error, VllmMagicError) else interrupted
            if restore:
                wait = not isinstance(failure, StartInterrupted)
                sentences = Restoration(manager, wait=wait, timeout=timeout, report=report).run(moved)
            else:
                sentences = left_alone(moved)
            raise failure.continued(*sentences) from None


def _switch(
    manager: Manager,
    spec: ServerSpec,
    moved: list[Server],
    timeout: float | None,
    report: Callable[[Server], None] | None,
) -> Switch:
    """Make the switch. Before a server is put to sleep or stopped, add it to ``moved``."""
    manager.check(spec)
    manager.expect(spec)
    done: list[SleepResult | Release] = []
    for other in _on_same_gpus(manager, spec):
        if other.state is ServerState.READY and run_of(other).sleep_mode.is_asleep():
            continue
        if other.state is not ServerState.STOPPING:  # a server that stops anyway does not come back
            moved.append(other)
        done.append(_move_away(manager, other))
    server = manager.start(spec, timeout=timeout, report=report).server
    if run_of(server).sleep_mode.is_asleep() or server.asleep:
        done.append(server.wake())
    return Switch(server, tuple(done))


def _gpus(manager: Manager, spec: ServerSpec) -> frozenset[GpuSet]:
    """Return the GPUs of this server, and those of all servers that are put to sleep or stopped for it."""
    return frozenset(
        GpuSet.of(each) for each in (spec, *(server.spec for server in _on_same_gpus(manager, spec)))
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
    """Put a server to sleep; stop a server that cannot sleep."""
    if run_of(server).sleep_mode.available and server.state is ServerState.READY:
        return server.sleep()
    return manager.stop(server.name)
