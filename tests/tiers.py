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

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
TIERS = ("real", "ray", "matrix", "browser", "process", "unit", "gpu")
SLOWEST = 20


def tier_of(nodeid: str) -> str:
    """Return the folder below `tests/` that a test is in."""
    return nodeid.split("/")[1]


@pytest.hookimpl(tryfirst=True)  # before xdist puts the groups into the ids
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the dearest tier first, and in each those tests last that want to be alone."""
    items.sort(key=lambda item: (_is_alone(item), TIERS.index(tier_of(item.nodeid))))


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


@pytest.hookimpl(
    wrapper=True, tryfirst=True
)  # around pytest-timeout: to wait for its turn is not the test's time
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep tests that are marked `alone` and all others apart."""
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
