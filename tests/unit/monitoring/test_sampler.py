"""The sampler: what it sees, what cannot hold it up, and that nothing of it stays."""

from __future__ import annotations

import os
import threading
from collections import Counter

import pytest

from vllm_magic.gpu import usage
from vllm_magic.gpu.devices import ComputeProcess, Gpu
from vllm_magic.linux import ownership, processes
from vllm_magic.linux.ownership import Ownership
from vllm_magic.linux.processes import Identity
from vllm_magic.manager.manager import Manager
from vllm_magic.monitoring import sampler


def threads(but: set[threading.Thread]) -> list[str]:
    return [one.name for one in set(threading.enumerate()) - but if one.name.startswith("vllm-magic")]


@pytest.fixture(autouse=True)
def long_end(monkeypatch):
    """On a busy machine a look may come late."""
    monkeypatch.setattr(sampler, "POLLED_AFTER_END", 60.0)


class TestItsEnd:
    def test_nothing_begins_by_itself(self, home):
        before = set(threading.enumerate())  # a test before may have left a thread that reads /proc
        made = Manager()
        assert (threads(but=before), made.probe.pid) == ([], None)
        made.close()


class TestWhoHoldsWhat:
    def test_of_each_leader_on_each_gpu(self):
        one, two = Identity(11, 1), Identity(22, 1)
        leaders = {11: one, 12: one, 21: two}

        def gpu(*listed: tuple[int, int | None]) -> Gpu:
            return Gpu(0, "GPU-0", "a GPU", 9, 5, 4, tuple(ComputeProcess(*each) for each in listed))

        blind = Gpu(1, "GPU-1", "a GPU", 9, None, None, None)
        seen = usage.measure(
            (gpu((11, 1), (12, 2), (21, 4), (99, 8)), gpu((21, None), (21, 4)), blind), leaders
        )
        assert seen.used == (5, 5, None)
        assert seen.held(one) == (3, 0, None)
        assert seen.held(two) == (4, None, None)
        assert seen.held(Identity(33, 1)) == seen.held(None) == (0, 0, None)


class TestKin:
    def test_each_process_is_looked_at_once(self, monkeypatch):
        looked = Counter()
        find = processes.leader_of

        def count(pid, leaders):
            looked[pid] += 1
            return find(pid, leaders)

        monkeypatch.setattr(processes, "leader_of", count)
        me = processes.read(os.getpid()).identity
        known = Ownership()
        for _ in range(5):
            assert known.leaders_of({me.pid, 1}, [me]) == {me.pid: me}
        assert looked == {me.pid: 1, 1: 1}
        assert known.leaders_of({1}, [me]) == {}
        known.leaders_of({1}, [])  # with other leaders it may be another's
        assert looked[1] == 2
        monkeypatch.setattr(ownership, "RECHECK_INTERVAL", 0.0)
        known.leaders_of({2}, [])
        known.leaders_of({2}, [])
        assert looked[2] == 2

    def test_the_number_of_a_dead_leader_is_another_s_now(self):
        me = processes.read(os.getpid()).identity
        before = me._replace(start=me.start - 1)
        assert processes.leader_of(me.pid, {before.pid: before}) is None
        assert processes.leader_of(2**30, {before.pid: before}) is None
