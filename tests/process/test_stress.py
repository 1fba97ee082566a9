"""Five hundred starts and stops side by side, guards and leaders dying at random: nothing stays, nothing grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from stand_in import leftovers
from traces import Traces

from vllm_magic import ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.ledger import Condition
from vllm_magic.recovery.sweep import sweep

CYCLES = 500
THREADS = 8
SEED = 3
LIMIT = 600  # seconds; half a minute is usual on two idle cores
GROWTH = 16 * 1024  # KiB of memory in 400 cycles; a leak of the size of one log tail in each would be more

INTERRUPTS = 40

PROGRAM = Path(__file__).with_name("stress.py")
INTERRUPTED = Path(__file__).with_name("interrupts.py")


@pytest.fixture
def short_home(monkeypatch):
    """A state folder with so short a path that TMPDIR is in it."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        monkeypatch.setenv("VLLM_MAGIC_HOME", f"{folder}/h")
        monkeypatch.setenv(leftovers.HOME, f"{folder}/h")
        yield Path(folder, "h")


def run(executable: str, *numbers: int, program: Path = PROGRAM) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, where nothing else holds or takes anything."""
    return subprocess.run(
        [sys.executable, program, executable, *map(str, numbers)],
        env={**os.environ, "PYTHONPATH": f"{PROGRAM.parents[2]}:{PROGRAM.parents[1]}"},
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(LIMIT + 100)
def test_nothing_stays_and_nothing_grows(short_home, executable):
    traces = Traces(short_home)
    ended = run(executable, CYCLES, THREADS, SEED, LIMIT)
    assert ended.returncode == 0, ended.stderr  # the stacks of all threads, if it hung
    report = json.loads(ended.stdout)
    print(json.dumps(report, indent=1))
    assert report["wrong"] == []
    assert report["counts"]["killed"] > CYCLES / 10
    assert {"leader", "inner", "outer", "guards", "shared", "when ready"} <= report["counts"].keys()
    before, after = report["before"], report["after"]
    assert after["rss"] - before["rss"] < GROWTH
    for what in ("descriptors", "threads", "children"):
        assert after[what] <= before[what], (what, before, after)
    assert traces.processes() == []
    assert traces.files() == []


def test_a_hang_is_told_with_all_stacks(short_home, executable):
    traces = Traces(short_home)
    ended = run(executable, CYCLES, THREADS, SEED, 1)
    assert ended.returncode == 1
    assert ended.stderr.startswith("It hangs:\n")
    assert ended.stderr.count("in _cycle") == THREADS
    # The program ended in the midst of it. The guards have the rest to do, and the sweep what had no guards yet.
    # A folder of which not even the record was written is told, and left alone.
    deadline = time.monotonic() + 120
    while traces.processes() or any(one.condition is not Condition.TORN for one in ledger.entries()):
        assert time.monotonic() < deadline, (ledger.entries(), traces.processes())
        time.sleep(0.1)
        sweep(Probe())


@pytest.mark.timeout(LIMIT + 100)
def test_interrupts_at_random_moments_leave_nothing(short_home, executable):
    traces = Traces(short_home)
    ended = run(executable, INTERRUPTS, SEED, program=INTERRUPTED)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["wrong"] == []
    assert sum(report["counts"].values()) == INTERRUPTS
    assert report["counts"].keys() == {"start", "question", "stop"}
    traces.check()
