"""The vLLM and the checks that run on it, and the record of how they went."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.real.environment import ENVIRONMENT, RealVllm
from tests.versions import install

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 300  # characters of what a check says
RESULTS = os.environ.get("VLLM_MAGIC_VERSIONS")  # the folder for what `report.py` reads; none by default

_said_before: set[str] = set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this version of vLLM cannot do; the mark says why. If no version is chosen, take a few checks only."""
    checks = [item for item in items if item.get_closest_marker("check")]
    if not install.CHOSEN:
        others = [item for item in checks if not item.get_closest_marker("with_each_change")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    for item in checks:
        if not (install.has_cpu_build(install.VERSION) or item.get_closest_marker("without_a_gpu")):
            item.add_marker(
                pytest.mark.skip(reason="there is no CPU build of this version, and here is no GPU")
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Write how each check went, for the table."""
    report = yield
    check = item.get_closest_marker("check")
    if check is not None and RESULTS and (report.when == "call" or not report.passed):
        _record(check.args[0], report)
    return report


def _record(check: str, report: pytest.TestReport) -> None:
    if report.skipped:
        outcome, said = "cannot", report.longrepr[2].removeprefix("Skipped: ")
    elif report.passed:
        outcome, said = "works", ""
    else:
        said = _what_it_said(report)
        # A fixture that failed is a server that did not start: the checks after the first one were not run.
        outcome = "not run" if report.when == "setup" and said in _said_before else "fails"
        _said_before.add(said)
    path = Path(str(RESULTS)) / f"{install.VERSION}.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    if report.when != "teardown" or outcome != "works":
        rows[check] = {
            "outcome": outcome,
            "said": said,
            **dict(report.user_properties),
            "load": os.getloadavg()[0],
        }
    written = path.with_suffix(".new")
    written.write_text(json.dumps(rows, indent=1))
    written.replace(path)  # as a whole: the run may be interrupted


def _what_it_said(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join(crash.message.split())[:LONGEST] if crash else str(report.longrepr)[-LONGEST:]


@pytest.fixture(scope="session")
def vllm() -> RealVllm:
    """The vLLM of this version, built first where it is missing, and the tiny model."""
    install.install(install.VERSION)
    executable = install.executable(install.VERSION)
    return RealVllm(
        executable, executable.with_name("python"), install.model(install.VERSION), dict(ENVIRONMENT)
    )


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache that stays from test to test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch) -> Iterator[Path]:
    """One cache for the session: to read vLLM's flags takes as long as a start."""
    monkeypatch.setenv("VLLM_MAGIC_CACHE", str(shared_cache))
    return shared_cache
