"""A release does not scan the whole machine for each process that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
from by_hand import until

from vllm_magic.guard import ladder
from vllm_magic.guard.ladder import Ladder
from vllm_magic.linux import processes, sessions

COUNT = 15
# Ends one of its children after the other when it is asked to.
LEADER = f"""
import os, signal, sys, time
children = []

def end(*_):
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(0.02)
    sys.exit()

signal.signal(signal.SIGTERM, end)
for _ in range({COUNT}):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(300)
        signal.pause()
    children.append(child)
print("ready", flush=True)
while True:
    signal.pause()
"""

# The newest process forks the next one every 5 ms; each lives for 2 s, and the last one until it is killed.
CHAIN = """
import os, signal, time
print("ready", flush=True)
for _ in range(1000):
    signal.alarm(2)
    time.sleep(0.005)
    if os.fork():
        break
while True:
    signal.pause()
"""


@pytest.fixture
def leader():
    with subprocess.Popen(
        [sys.executable, "-c", LEADER], stdout=subprocess.PIPE, start_new_session=True
    ) as one:
        assert one.stdout
        one.stdout.readline()
        yield processes.read(one.pid).identity
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)


class Finder:
    """Finds the processes of a leader, and counts the scans."""

    def __init__(self, leader) -> None:
        self.leader = leader
        self.scans = 0

    def __call__(self):
        self.scans += 1
        table = sessions.near([self.leader.pid])
        return [table[pid] for pid in processes.server_members(table, self.leader) if table[pid].alive]


def test_waiting_for_an_end_takes_few_scans(leader):
    find = Finder(leader)
    began = time.monotonic()
    outcome = Ladder(find, leader).run(grace=60.0, patience=60.0)
    assert (len(outcome.ended), outcome.left) == (COUNT + 1, [])
    assert {how for *_, how in outcome.ended} == {"SIGTERM", "by itself"}
    assert find.scans <= 3 + (time.monotonic() - began) / ladder.SCAN_INTERVAL


def test_a_process_that_starts_meanwhile_is_found(leader):
    """Here after all known processes have ended: then the whole machine is scanned."""
    find = Finder(leader)
    with subprocess.Popen(["sleep", "300"], start_new_session=True) as late:

        def with_late():
            found = find()
            process = processes.read(late.pid)
            return [*found, process] if find.scans > 1 and process and process.alive else found

        outcome = Ladder(with_late, leader).run(grace=60.0, patience=60.0)
        assert late.wait(60) == -signal.SIGKILL
    assert [how for pid, *_, how in outcome.ended if pid == late.pid] == ["SIGKILL"]
    assert len(outcome.ended) == COUNT + 2


@pytest.mark.parametrize("is_maker_alive", [True, False])
def test_a_chain_that_forks_faster_than_it_is_scanned_is_ended(monkeypatch, is_maker_alive):
    """As on a busy machine, where one scan takes longer than many forks."""
    monkeypatch.setattr(ladder, "KILL_LIMIT", 3.0)
    with subprocess.Popen(
        [sys.executable, "-c", CHAIN], stdout=subprocess.PIPE, start_new_session=True
    ) as maker:
        assert maker.stdout
        maker.stdout.readline()
        scan = Finder(processes.read(maker.pid).identity)
        try:
            until(lambda: len(scan()) >= 10, "the chain has not begun")
            if not is_maker_alive:
                maker.kill()
                maker.wait(60)

            def find():
                found = scan()
                time.sleep(0.1)
                return found

            session = None if is_maker_alive else maker.pid
            outcome = Ladder(find, None, whole_groups=False, session=session).run(0.0, 0.0)
            assert outcome.left == []
            assert scan() == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(maker.pid, signal.SIGKILL)
