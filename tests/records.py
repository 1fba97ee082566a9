"""Records of servers for tests."""

from __future__ import annotations

import os
import time

from vllm_magic.guard.record import Phase, Record
from vllm_magic.linux import machine, processes

# The id of a server that does not exist; unique to this process, since other tests may search for processes by such a mark.
IDENTIFIER = f"{os.getpid():08x}"


def record(identifier: str = IDENTIFIER, **fields) -> Record:
    """Return a record of a server that this process has just started; ``fields`` replace the default values."""
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
