"""The tiers of tests: the folders of `tests/`, which run at the same time, the slowest first.

At the end the seconds of each tier and the slowest tests are printed; the latter are written to build/slowest.txt too.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from xdist.remote import Producer

TESTS = Path(__file__).parent
TIERS = ("real", "versions", "ray", "browser", "environments", "process", "matrix", "unit", "gpu")
# Each of these runs in one process: its shared fixtures are made once, and two tests at once would slow all others.
TOGETHER = {"real", "versions", "ray", "browser", "gpu"}
# The beginnings of the ids of further tests that run in one process, one after the other: while the address space of a process
# is locked, the maps of all processes cannot be read, which the others need.
ONE_BY_ONE = ("tests/process/test_hanging_disk.py", "tests/process/test_linux.py::TestSharedMemory")
SLOWEST = 20


def tier_of(nodeid: str) -> str:
    """Return the folder below `tests/` that a test is in."""
    return nodeid.split("/")[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest tiers first, so that the tests that mostly wait run at the same time."""
    items.sort(key=lambda item: TIERS.index(tier_of(item.nodeid)))


class TierScheduling(LoadScopeScheduling):
    """Gives each tier in `TOGETHER` and the tests `ONE_BY_ONE` to one process each as a whole, and the other tests singly."""

    def _split_scope(self, nodeid: str) -> str:
        tier = tier_of(nodeid)
        if nodeid.startswith(ONE_BY_ONE):
            return ONE_BY_ONE[0]
        return tier if tier in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TierScheduling:
    """Have xdist schedule by tiers; its own groups (`--dist loadgroup` of 3.8) do nothing with pytest 9.2."""
    return TierScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each tier, and the slowest tests."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid] += report.duration
    tiers = {tier: [nodeid for nodeid in seconds if tier_of(nodeid) == tier] for tier in TIERS}
    slowest = [f"{took:8.1f} s  {nodeid}" for nodeid, took in seconds.most_common(SLOWEST)]
    terminalreporter.section("seconds, with set-up and tear-down")
    for tier, nodeids in tiers.items():
        if nodeids:
            took = sum(seconds[nodeid] for nodeid in nodeids)
            terminalreporter.line(f"{took:8.1f} s  tests/{tier}: {len(nodeids)} tests")
    terminalreporter.section(f"the {SLOWEST} slowest")
    for line in slowest:
        terminalreporter.line(line)
    written = TESTS.parent / "build" / "slowest.txt"
    written.parent.mkdir(exist_ok=True)
    written.write_text("\n".join(slowest) + "\n")
