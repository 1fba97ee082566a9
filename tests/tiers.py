"""The tiers of tests: the folders of `tests/`, which run beside each other, the dearest first.

A test runs beside others unless it is marked `alone`: then it waits until no other runs, and the others wait for it.
At the end the seconds of each tier and the slowest tests are printed, and written to build/slowest.txt.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xdist.remote import Producer

TESTS = Path(__file__).parent
TIERS = ("real", "ray", "browser", "process", "matrix", "unit", "gpu")
# Each in one process: what its tests share is made once, and two of a kind would take the machine from all others.
TOGETHER = {"real", "ray", "browser", "gpu"}
SLOWEST = 20


def tier_of(nodeid: str) -> str:
    """Return the folder below `tests/` that a test is in."""
    return nodeid.split("/")[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the dearest tiers first, with those that mostly wait beside them, and tests that want to be alone last."""
    items.sort(key=lambda item: (_is_alone(item), TIERS.index(tier_of(item.nodeid))))


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


class TierScheduling(LoadScopeScheduling):
    """Gives a process a whole tier of those in `TOGETHER`, and of the others one test after the other."""

    def _split_scope(self, nodeid: str) -> str:
        tier = tier_of(nodeid)
        return tier if tier in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TierScheduling:
    """Have xdist schedule by tiers; its own groups (`--dist loadgroup` of 3.8) do nothing with pytest 9.2."""
    return TierScheduling(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep tests that are marked `alone` and all others apart; to wait for its turn is not a test's own time."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    shared = item.config._tmp_path_factory.getbasetemp().parent
    with _turn(shared, alone=_is_alone(item)):
        return (yield)


@contextmanager
def _turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the lock of the session, alone or with others; who wants it alone keeps newcomers out meanwhile."""
    with (folder / "tests.entry").open("w") as entry, (folder / "tests.turn").open("w") as turn:
        fcntl.flock(entry, fcntl.LOCK_EX)
        fcntl.flock(turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(entry, fcntl.LOCK_UN)
        yield


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
