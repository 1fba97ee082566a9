"""A program's own signal handler may use this package in the middle of any call, and waits for threads which use it too."""

from __future__ import annotations

import subprocess
import threading

import each_line
import pytest

from vllm_magic import masking
from vllm_magic.children import flag_reading
from vllm_magic.engine import free_port
from vllm_magic.gpu.devices import Snapshot
from vllm_magic.gpu.probe import Probe
from vllm_magic.linux import forks, lookups
from vllm_magic.linux.eventfd import Cancellation
from vllm_magic.manager.manager import Manager
from vllm_magic.masking import mask
from vllm_magic.plotting.timeseries import Curve, Sample
from vllm_magic.provisioning import standby_pool
from vllm_magic.provisioning.standby import StandbySpec
from vllm_magic.provisioning.standby_pool import StandbyMode, StandbyPool

# Which ends a wait of the main thread for itself.
pytestmark = pytest.mark.timeout(30, method="signal")


def test_keys_are_masked():
    def remember() -> None:
        masking.remember("some-key-of-a-handler")
        assert mask("some-key-of-a-handler") == "***"

    assert each_line.run(remember, remember) > 1


def test_names_are_looked_up():
    def look() -> None:
        assert lookups.within(20.0, "a name", lambda: 5) == 5

    assert each_line.run(look, look) > 1
    assert lookups._pending == {}


def test_free_ports_are_chosen():
    given: list[int] = []

    def choose() -> None:
        given.append(free_port.choose("127.0.0.1"))

    assert each_line.run(choose, choose) > 1
    assert len(set(given)) == len(given)


def test_a_start_is_given_up():
    cancelled = Cancellation()
    assert not cancelled.event.wait(0.0)

    def give_up() -> None:
        cancelled.event.set()
        assert cancelled.event.wait(20.0)
        assert cancelled.event.is_set()

    assert each_line.run(give_up, give_up, each_line.PACKAGE, threading.__file__) > 1


def test_curves_are_read():
    curve = Curve()

    def add() -> None:
        curve.add(Sample(1.0, running=1))

    def read() -> None:
        assert {one.running for one in curve.samples()} == {1}
        assert (curve.baseline, curve.gpus) == ((), ())

    add()
    assert each_line.run(read, lambda: (add_elsewhere(add), read())) > 1


def add_elsewhere(add) -> None:
    """As the threads do that follow servers."""
    thread = threading.Thread(target=add, daemon=True)
    thread.start()
    thread.join(20.0)
    assert not thread.is_alive(), "it cannot add a sample while one is read"


@pytest.fixture
def started(monkeypatch) -> list[object]:
    """The programs that were started, none of which runs."""
    programs: list[object] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: programs.append(words))
    monkeypatch.setattr(forks, "START_LIMIT", 0.2)
    return programs


def test_programs_are_started(started):
    def start() -> None:
        forks.spawn(["true"])

    interrupted = each_line.run(start, start)
    assert interrupted > 1
    assert len(started) == 2 * interrupted + 1
    assert not forks._starts


def test_programs_are_started_in_the_middle_of_a_fork(started):
    def start() -> None:
        forks.spawn(["true"])

    def fork() -> None:
        forks._before()
        forks._in_parent()

    interrupted = each_line.run(fork, start)
    assert len(started) == 2 * interrupted
    assert forks._gate.acquire(blocking=False)
    forks._gate.release()


def test_the_gpus_are_looked_at(monkeypatch):
    probe, seen = Probe(), Snapshot(1.0, (), None, "no NVIDIA driver found")
    monkeypatch.setattr(probe, "_ask", lambda *_, **__: seen)

    def look() -> None:
        assert probe.snapshot() is seen

    assert each_line.run(look, look) > 1
    assert each_line.run(probe.close, look) > 1


class NoStandby:
    """In the place of a standby: no process."""

    gone, over, warm, memory, since = False, "", True, 5, 1.0

    def __init__(self, spec: StandbySpec) -> None:
        self.spec = spec

    def drop(self) -> None:
        self.gone = True

    def wait_gone(self, _: float) -> bool:
        return self.gone

    hang_up = drop


def test_a_standby_is_made_taken_and_dropped(monkeypatch):
    monkeypatch.setattr(standby_pool, "Standby", NoStandby)
    monkeypatch.setattr(standby_pool, "is_possible", lambda _: True)
    pool, spec = StandbyPool(), StandbySpec("/vllm", "/", {})

    def use() -> None:
        pool.set_mode(StandbyMode.ON)
        pool.want(spec)
        assert pool.status().there
        assert isinstance(pool.take(spec), NoStandby)
        pool.want(spec)
        pool.set_mode("off")
        assert pool.wait_gone()
        pool.close()

    assert each_line.run(use, lambda: (pool.set_mode("on"), pool.want(spec))) > 1


def test_flags_begin_to_be_read(monkeypatch):
    begun: list[str] = []
    monkeypatch.setattr(flag_reading.executable, "interpreter", lambda _: ("python",))
    monkeypatch.setattr(flag_reading.flag_table, "load", lambda *_, **__: None)
    monkeypatch.setattr(flag_reading, "_begin", lambda path, _: begun.append(path))

    def read() -> None:
        flag_reading.table("/vllm")
        flag_reading.end()

    assert each_line.run(read, read) > 1
    assert begun


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("line", range(1, 7))
def test_news_are_told_once(line):
    manager = Manager()
    manager._news.put("a server has failed")
    told: list[str] = []
    lines: list[None] = []

    def hear() -> None:
        told.extend(manager.news())

    def handler() -> None:
        if threading.current_thread() is threading.main_thread():  # no server waits for who hears news
            lines.append(None)
            if len(lines) == line:
                hear()

    assert each_line.run(hear, handler) >= line
    assert told == ["a server has failed"]
