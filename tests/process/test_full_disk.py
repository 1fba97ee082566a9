"""A state folder on a disk that is full: said in these words, before, during and after a server's life."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import by_hand
import pytest
from matrix.resources import fill, small_disk

from vllm_magic import ledger
from vllm_magic.doctor.findings import Topic
from vllm_magic.doctor.survey import survey
from vllm_magic.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 60.0
FLOOD = {"log_flood": {"bytes_per_s": 4e6, "seconds": 5.0}}


@pytest.fixture
def disk(home) -> Iterator[Path]:
    """The state folder is a small disk of its own."""
    with small_disk(home):
        yield home


def test_before_the_start(disk, manager, spec):
    ledger.create("another")
    fill(disk)
    with pytest.raises(StartFailed, match=rf"The disk of {disk} is full") as caught:
        manager.start(spec(), timeout=LIMIT)
    assert "VLLM_MAGIC_HOME" in caught.value.hint


@pytest.mark.parametrize("pages", [1, 4])
def test_with_little_room(disk, manager, spec, pages):
    """What cannot be written differs: the record, the log, what a guard says there. None of it ends a server."""
    reserve = disk / "reserve"
    reserve.write_bytes(bytes(4096 * pages))
    fill(disk)
    reserve.unlink()
    server = manager.start(
        spec(faults={"log_flood": {"bytes_per_s": 1e5, "seconds": 5.0}}), timeout=LIMIT
    ).server
    assert server.state == "ready"
    by_hand.until(ledger.full_disk, "the disk is not full")
    assert server.stop().verified
    assert [f"disk of {disk} is full" in line for line in manager.news()] == [True]


def test_one_that_fails(disk, manager, spec):
    """Why may be in what could not be written."""
    server = manager.start(spec(faults=FLOOD), timeout=LIMIT).server
    fill(disk)
    os.kill(server.pid, signal.SIGKILL)
    assert server._run.wait_over(LIMIT)
    assert f"The disk of {disk} is full, and the log lacks its end: " in str(server.error)
    assert "Make room" in server.error.hint


def test_during_its_life(disk, shell, capsys):
    shell.run_line_magic("vllm", "start tiny")
    assert "disk" not in repr(shell.run_line_magic("vllm", "status"))
    fill(disk)
    assert f"The disk of {disk} is full" in repr(shell.run_line_magic("vllm", "status"))
    capsys.readouterr()
    assert shell.run_line_magic("vllm", "stop").verified
    shell.run_cell("pass")
    assert f"The disk of {disk} is full: the log of tiny lacks its end." in capsys.readouterr().out


def test_for_a_terminal(disk, manager, spec):
    manager.start(spec(), timeout=LIMIT)
    fill(disk)
    probe = by_hand.PatientProbe()
    (found,) = [one for one in survey(probe).findings if one.topic is Topic.FOLDER]
    probe.close()
    assert found.what == f"The disk of {disk} is full."
