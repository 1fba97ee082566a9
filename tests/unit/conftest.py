"""Tests of this tier start no process: each takes milliseconds, and the tier runs on any machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_started: list[str] | None = None  # what the running unit test has started; None while no unit test runs


def _note(event: str, args: tuple[object, ...]) -> None:
    if _started is not None and event in STARTS:
        _started.append(f"{event} {args[:2]}")


sys.addaudithook(_note)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Iterator[None]:
    """Note from now on what is started."""
    global _started  # noqa: PLW0603 - an audit hook cannot be removed, so this tells it whether to note anything
    _started = []
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """A test that started a process belongs to another tier, and fails here."""
    global _started
    try:
        yield
    finally:
        started, _started = _started, None
    assert not started, f"a test of this tier starts no process, and this one did: {started}"
