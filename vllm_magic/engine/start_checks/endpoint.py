"""Refuse a host or a port on which the server cannot listen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine import command
from vllm_magic.linux import lookups

if TYPE_CHECKING:
    from vllm_magic.engine.start_checks.planned_start import PlannedStart


def check(start: PlannedStart) -> None:
    """Check the server's host and port.

    Raises:
        InvalidOption: a flag cannot be used here, or its value is no host or no port.
        StartFailed: the port is taken, or it or its host cannot be used.
    """
    command.check_endpoint(start.spec, start.freed_ports, start.limit(lookups.HOST_LIMIT))
