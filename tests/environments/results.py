"""What passed in which environment, for the table of `make compatibility`; nothing is written without COMPATIBILITY."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from environments.make import RECORD

if TYPE_CHECKING:
    from environments.catalog import Environment

# In the order in which a test reaches them; the death of a kernel is a test of its own.
STEPS = ("install", "load", "start", "ask", "panel", "completion", "stop", "kernel death")


def environment(which: Environment) -> None:
    """Note that a kernel of this environment has started, so it was installed."""
    passed(which, "install")


def passed(which: Environment, step: str) -> None:
    """Note that a step has passed."""
    if folder := os.environ.get("COMPATIBILITY"):
        path = Path(folder, f"{which.name}.json")
        made = json.loads((which.folder / RECORD).read_text())
        known = (
            json.loads(path.read_text())
            if path.exists()
            else {"python": made["python"], "versions": made["after"], "passed": []}
        )
        known["passed"] = [*known["passed"], step]
        path.write_text(json.dumps(known))
