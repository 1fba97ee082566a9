"""Deaths of parts of the server, and of several at once."""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING

from vllm_magic.linux import pidfd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.linux.processes import Identity

    from .stage import Stage


def kill_leaders(stage: Stage) -> float:
    """The API server of each."""
    return _kill(one.leader for one in stage.servers.values() if one.leader)


def kill_engines(stage: Stage) -> float:
    """The EngineCores."""
    return _kill(_titled(stage, "::EngineCore"))


def kill_workers(stage: Stage) -> float:
    """The workers."""
    return _kill(_titled(stage, "::Worker"))


def stop_engines(stage: Stage) -> None:
    """The kernel is killed while the EngineCores hang."""
    for engine in _titled(stage, "::EngineCore"):
        assert pidfd.send(engine, signal.SIGSTOP)
    _kill([stage.host_identity])


def kill_outer(stage: Stage) -> float:
    """The outer guard of each."""
    return _kill(server.guards[0] for server in stage.servers.values())


def kill_inner(stage: Stage) -> float:
    """The inner guard of each."""
    return _kill(server.guards[1] for server in stage.servers.values())


def kill_kernel_and_outer(stage: Stage) -> None:
    """At once: neither sees the other die."""
    _kill([stage.host_identity, *(server.guards[0] for server in stage.servers.values())])


def kill_kernel_and_inner(stage: Stage) -> None:
    """At once."""
    _kill([stage.host_identity, *(server.guards[1] for server in stage.servers.values())])


def kill_kernel_and_guards(stage: Stage) -> None:
    """At once: nobody is left who knows of the server, but for the ledger."""
    _kill([stage.host_identity, *(one for server in stage.servers.values() for one in server.guards)])


def kill_kernel_and_guards_and_sweep(stage: Stage) -> float:
    """A new IPython comes, and loads the extension; the clock runs from then on."""
    kill_kernel_and_guards(stage)
    return _sweep(stage)


def stop_guards_and_kill_kernel_and_sweep(stage: Stage) -> float:
    """The same, with guards that are there and do nothing."""
    for guard in (one for server in stage.servers.values() for one in server.guards):
        assert pidfd.send(guard, signal.SIGSTOP)
    _kill([stage.host_identity])
    return _sweep(stage)


def _sweep(stage: Stage) -> float:
    assert stage.ends.wait([stage.host_identity], stage.death.limit)
    began = time.monotonic()
    code = "%load_ext vllm_magic\nimport time; time.sleep(300)"
    stage.host.run([sys.executable, "-m", "IPython", "-c", code])
    return began


def _titled(stage: Stage, part: str) -> list[Identity]:
    found = [one for server in stage.servers.values() for one in server.titled(part)]
    assert len(found) >= len(stage.servers) - 1, found
    return found


def _kill(victims: Iterable[Identity]) -> float:
    """Stopped first, none can see another one die; the time of the first kill."""
    some = list(victims)
    for victim in some:
        pidfd.send(victim, signal.SIGSTOP)
    began = time.monotonic()
    for victim in some:
        pidfd.send(victim, signal.SIGKILL)
    return began
