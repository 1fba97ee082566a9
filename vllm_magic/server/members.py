"""The living processes of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.errors import VllmMagicError, reason
from vllm_magic.linux import sessions

if TYPE_CHECKING:
    from vllm_magic.lifecycle.lifecycle import Lifecycle
    from vllm_magic.linux.processes import Process


def living(name: str, lifecycle: Lifecycle) -> list[Process]:
    """Return the living processes of a server, the leader first; [] before its start and after its end.

    Args:
        name: the name of the server, for the error.
        lifecycle: the state of the server, with its leader.

    Raises:
        VllmMagicError: /proc cannot be read (no descriptor is free).
    """
    now = lifecycle.now
    leader = now.leader
    if leader is None or now.state.over:
        return []
    try:
        found = [process for process in sessions.server_members(leader) if process.alive]
    except OSError as error:
        raise VllmMagicError(
            f"The processes of {name} cannot be seen: {reason(error)}. Close some files, and try again."
        ) from error
    return sorted(found, key=lambda process: (process.identity != leader, process.identity.start))


def pids(name: str, lifecycle: Lifecycle) -> list[int]:
    """Return the pids of `living`. Arguments and errors as for `living`."""
    return [process.identity.pid for process in living(name, lifecycle)]
