"""Records of servers as tests need them."""

from __future__ import annotations

import os
import time

from vllm_magic.guard.record import Phase, Record
from vllm_magic.linux import machine, processes

# Of a server that is none: of this process alone, since others may look for processes with such a mark.
IDENTIFIER = f"{os.getpid():08x}"


def record(identifier: str = IDENTIFIER, **fields) -> Record:
    """A record of a server of this process, just started; ``fields`` replace what is said."""
    said = {
        "id": identifier,
        "name": "tiny",
        "model": "m/Tiny",
        "args": [],
        "url": "http://127.0.0.1:8001",
        "port": 8001,
        "gpus": [],
        "chosen": False,
        "baseline": [],
        "phase": Phase.STARTING,
        "since": time.time(),
        "place": list(machine.here()),
        "kernel": list(processes.read(os.getpid()).identity),
    }
    return Record(**{**said, **fields})
