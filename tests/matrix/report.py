"""docs/reliability.md from the results of a run on this machine: ``python -m matrix.report FOLDER``."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.cells import ENGINES, WARM, Phase, some
from matrix.deaths import DEATHS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matrix.deaths import Death

Row = dict[str, Any]

OURS = "vllm_magic"
PACKAGES = ("ipykernel", "jupyter_client", "jupyter_server", "nbclient", "nbconvert", "ipython")
METHODS = {
    "terminate": "`Popen`, `terminate()`",
    "killpg": "new session, `killpg`",
    "psutil": "psutil tree kill",
    OURS: "vllm_magic",
}

HEAD = """\
# Reliability

Made by `make reliability`, which runs `tests/matrix` in full and writes this page from what it measured.
Do not edit it.

{machine}

## What is tried

A host (a kernel, a notebook under nbconvert, a terminal ipython, a plain Python) starts one server for each
engine in each phase, {count} at once. Then it dies one death, and each server is judged on its own: no process of
it may live, its fake VRAM, its shared memory and its port are given back, its private folder is gone, and no
zombie is left. The servers are a stand-in for vLLM with vLLM's process tree, signals and leftovers; the fake
driver counts what the processes really hold open.

- Phases: {phases}.
  One of {warm} servers, others in each death, was begun from a spare; one more spare waits.
  While a server imports it is one process, so only four engines differ there; 200 children are tried in one phase
  of each death, another one in the next.
- A guard sees the end of the kernel's pidfd or socket, a word from the kernel, the end of the leader, or the end of the
  other guard. Deaths that look the same to it are one class. `make test` tries one death of each class (marked * below)
  with all these servers, and each other death with every engine in one phase and every phase for some engine. This page
  is of a run that tried everything.
- What `os.execv` puts in the kernel's place collects no children: the outer guard, ended, stays its zombie.
- {cells} servers were judged. {left}

## From the death to the last process gone

Seconds, the slowest of the phases; the clock starts when the host has ended, or with the kill where the host
lives on. Some {count} servers are released at once on {cores} cores here, which is what most of the time goes
to: one server alone is gone in a fraction of that (see the README).
**n left**: servers of which something was left.
"""

NOT_COVERED = """\
## What is not covered

- A machine that loses its power, or a Linux kernel that crashes: nothing runs that could release anything, and
  the GPU is reset with the machine.
- A process that hangs in the kernel or in the driver (state D): no signal ends it. The release says so, and names it.
- Another user's processes, other containers and other machines.
- The GPU driver's own faults. The matrix runs with a fake driver. tests/gpu runs vLLM on a real one: on an H100 (driver
  580.159, vLLM 0.26) 72 GiB were back after a stop, and after the SIGKILL of the leader, of the kernel, and of the kernel
  and both guards, each proved by the driver's own figures.
- vLLM itself: of it a chosen part is run (tests/real), since each start takes half a minute.
- Windows and macOS.
"""


def render(cells: list[Row]) -> str:
    """The page."""
    parts = [_head(cells), _table([row for row in cells if row["method"] == OURS])]
    if any(row["method"] != OURS for row in cells):
        parts.append(_comparison(cells))
    return "\n".join([*parts, NOT_COVERED])


def _head(cells: list[Row]) -> str:
    ours = [row for row in cells if row["method"] == OURS]
    left = [row for row in ours if not row["clean"]]
    expected = {death.name for death in DEATHS if death.survivors}
    unexpected = [row for row in left if row["death"] not in expected]
    cores = os.cpu_count()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return HEAD.format(
        machine=(
            f"Measured on {cores} cores, Linux {platform.release()}, with python {platform.python_version()}, {versions}; "
            "the stand-in follows vLLM 0.32.0."
        ),
        count=max(sum(row["death"] == death.name for row in ours) for death in DEATHS),
        cores=cores,
        phases="; ".join(phase.value for phase in Phase),
        warm=WARM,
        cells=len(ours),
        left=f"Of {len(unexpected) or 'none'} was anything left, but for the deaths that are marked so."
        if expected
        else "",
    )


def _table(rows: list[Row]) -> str:
    names = [engine.name for engine in ENGINES]
    lines = []
    played = {row["death"] for row in rows}
    for group in dict.fromkeys(death.group for death in DEATHS if death.name in played):
        lines += ["", f"| {group} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for death in DEATHS:
            of_death = [row for row in rows if row["death"] == death.name]
            if death.group == group and of_death:
                shown = [_shown([row for row in of_death if row["engine"] == name]) for name in names]
                lines.append(f"| {death.label}{' *' if death.in_full else ''} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, ""])


def _shown(rows: list[Row]) -> str:
    left = sum(not row["clean"] for row in rows)
    if left:
        return f"**{left} left**"
    return f"{max(row['seconds'] for row in rows):.1f}" if rows else ""


def _comparison(rows: Iterable[Row]) -> str:
    cells = some()
    wanted = {(cell.engine.name, cell.phase.value) for cell in cells}
    rows = [row for row in rows if (row["engine"], row["phase"]) in wanted]
    lines = [
        "## Beside what people use today",
        "",
        "The same deaths of the same servers, started in three other ways: `Popen` with `terminate()` at exit;",
        "`Popen` in a new session with a `killpg` (SIGTERM) at exit; the same with a kill of all that psutil finds",
        "below the leader. How many servers had processes left six seconds later, and how many processes, in all",
        f"engines when ready, and the well-behaved one in the other phases ({len(cells)} servers or less).",
        "",
        "| death | " + " | ".join(METHODS.values()) + " |",
        "|---|" + "---:|" * len(METHODS),
    ]
    for death in DEATHS:
        of_death = [row for row in rows if row["death"] == death.name]
        if death.today and any(row["method"] != OURS for row in of_death):
            shown = [_left([row for row in of_death if row["method"] == method]) for method in METHODS]
            lines.append(f"| {_full_label(death)} | " + " | ".join(shown) + " |")
    return "\n".join([*lines, ""])


def _left(rows: list[Row]) -> str:
    servers = sum(bool(row["survivors"]) for row in rows)
    count = sum(len(row["survivors"]) for row in rows)
    if not rows:
        return ""
    return f"{servers} of {len(rows)} ({count})" if servers else "none"


def _full_label(death: Death) -> str:
    return f"kernel {death.label}" if death.group == "The kernel" else death.label


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*.json"))
    print(render([row for file in files for row in json.loads(file.read_text())]), end="")
