"""The fake driver keeps to the rules of a real one: who lives holds, and whom nobody holds for is free."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_gpu import fakegpu

from vllm_magic.gpu.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vllm_magic.gpu.devices import Gpu

GIB = 2**30


class Fake:
    """A fake driver, and a probe that asks it."""

    def __init__(self, root: Path) -> None:
        self.root = fakegpu.build(root, gpus=2)
        self.probe = Probe(env=fakegpu.env(self.root))

    def gpu(self, index: int = 0) -> Gpu:
        snapshot = self.probe.snapshot()
        assert snapshot.problem is None
        return snapshot.gpus[index]

    def listed(self, index: int = 0) -> dict[int, int | None]:
        return {process.pid: process.used for process in self.gpu(index).processes or ()}


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    fake = Fake(tmp_path)
    yield fake
    fake.probe.close()


@contextlib.contextmanager
def running(fake: Fake, script: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a script that calls `hold`; yields its process and the line that it prints when it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", f"from fakegpu import hold\nimport os, sys, time\n{script}"],
        env={**fakegpu.env(fake.root), "PYTHONPATH": str(Path(fakegpu.__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_a_living_process_holds_its_bytes_and_no_others(fake: Fake) -> None:
    with fakegpu.holding(fake.root, 3) as first, fakegpu.holding(fake.root, 2, gpu=1) as second:
        assert fake.listed(0) == {first.pid: 3 * GIB}
        assert fake.listed(1) == {second.pid: 2 * GIB}
        assert fake.gpu(0).used == 3 * GIB
        assert fake.gpu(0).free == 21 * GIB


def test_a_killed_process_gives_its_bytes_back(fake: Fake) -> None:
    with fakegpu.holding(fake.root, 3) as holder:
        holder.kill()
        holder.wait()
        assert fake.gpu().used == 0
        assert fake.listed() == {}
    assert list((fake.root / "alloc").iterdir()) == []


def test_a_slow_driver_keeps_the_bytes_of_the_dead_for_a_while(fake: Fake) -> None:
    with fakegpu.holding(fake.root, 3, teardown_s=0.5) as holder:
        assert fake.gpu().used == 3 * GIB
        holder.kill()
        holder.wait()
        assert fake.listed() == {holder.pid: 3 * GIB}
        deadline = time.monotonic() + 60
        while fake.gpu().used:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert list((fake.root / "alloc").iterdir()) == []


def test_closing_the_descriptor_gives_the_bytes_back(fake: Fake) -> None:
    held = fakegpu.hold(GIB, root=fake.root)
    assert fake.listed() == {os.getpid(): GIB}
    os.close(held)
    assert fake.gpu().used == 0


def test_a_forked_child_keeps_the_bytes_of_its_dead_parent(fake: Fake) -> None:
    script = "hold(2**30)\nchild = os.fork()\nif child: print(child, flush=True)\ntime.sleep(600)"
    with running(fake, script) as (parent, line):
        child = os.pidfd_open(int(line))
        parent.kill()
        parent.wait()
        try:
            assert fake.listed() == {parent.pid: GIB}
        finally:
            signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


def test_a_zombie_leader_holds_while_one_of_its_threads_lives(fake: Fake) -> None:
    script = """
import ctypes, threading
def live_on():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][0] != "Z":
        time.sleep(0.01)
    print("leader is a zombie", flush=True)
    time.sleep(600)
hold(2**30)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with running(fake, script) as (leader, line):
        assert line == "leader is a zombie\n"
        assert fake.listed() == {leader.pid: GIB}
        leader.kill()
        leader.wait()
        assert fake.gpu().used == 0


def test_a_setting_can_be_for_one_gpu_and_be_taken_back(fake: Fake) -> None:
    fakegpu.configure(fake.root, base_used_mib__1=1024)
    assert (fake.gpu(0).used, fake.gpu(1).used) == (0, GIB)
    fakegpu.configure(fake.root, base_used_mib__1=None)
    assert (fake.gpu(0).used, fake.gpu(1).used) == (0, 0)


def test_a_process_is_in_the_lists_that_it_names(fake: Fake) -> None:
    """One that draws and computes is told twice with the same bytes, as by nvidia-smi, and holds them once."""
    with (
        fakegpu.holding(fake.root, 1, lists="g") as draws,
        fakegpu.holding(fake.root, 2, lists="cg") as both,
        fakegpu.holding(fake.root, 3, lists="m") as mps,
        fakegpu.holding(fake.root, 4, lists=""),
    ):
        assert fake.listed() == {draws.pid: GIB, both.pid: 2 * GIB, mps.pid: 3 * GIB}
        assert [
            one.computes for one in sorted(fake.gpu().processes or (), key=lambda one: one.used or 0)
        ] == [
            False,
            True,
            True,
        ]
        assert (fake.gpu().used, fake.gpu().unattributed) == (10 * GIB, 4 * GIB)
        fakegpu.configure(fake.root, graphics_unsupported=1)
        assert fake.listed() == {both.pid: 2 * GIB}
