"""Turns on GPUs: servers that may share one wait for each other, and no others."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from view_checks import a_server

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.manager import switching
from vllm_magic.server.gpu_turns import TURNS, GpuSet, GpuTurns
from vllm_magic.server.sleep_mode import SleepMode, SleepResult

HANGS = 60.0  # seconds after which something hangs
SOON = 0.1  # seconds in which a thread that does not wait would be there


def gpus(text: str | None, cluster: str | None = None) -> GpuSet:
    return GpuSet.of(ServerSpec("m", gpus=text, cluster=cluster))


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("0", "1", False),
        ("0,1", "2, 3", False),
        ("0,1", "1", True),
        ("0", "00", True),
        ("0", None, True),
        (None, None, True),
        ("auto", "1", True),
        ("0", "GPU-1234", True),
    ],
)
def test_which_gpus_may_overlap(one, other, overlap):
    assert gpus(one).may_overlap(gpus(other)) is overlap
    assert gpus(other).may_overlap(gpus(one)) is overlap


def test_a_cluster_has_other_gpus():
    here, there = gpus(None), gpus(None, "http://head:8265")
    assert not here.may_overlap(there)
    assert there.may_overlap(there)


@contextmanager
def thread(work):
    """Run this in a thread; at the end of the block it ends too."""
    failed = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    yield running
    running.join(HANGS)
    assert not running.is_alive(), "it hangs"
    assert not failed, failed


class TestTurns:
    @pytest.fixture
    def turns(self):
        return GpuTurns()

    @staticmethod
    def taking(turns, *wanted):
        there = threading.Event()

        def take() -> None:
            with turns.turn(*wanted):
                there.set()

        return there, take

    @pytest.mark.parametrize(("one", "other"), [("0", "0"), ("0,1", "1"), (None, "1"), ("1", None)])
    def test_the_same_gpu_one_after_the_other(self, turns, one, other):
        there, take = self.taking(turns, gpus(other))
        with turns.turn(gpus(one)):
            waiting = threading.Thread(target=take, daemon=True)
            waiting.start()
            assert not there.wait(SOON)
        assert there.wait(HANGS)
        waiting.join(HANGS)

    def test_other_gpus_side_by_side(self, turns):
        there, take = self.taking(turns, gpus("1"))
        with turns.turn(gpus("0")), thread(take):
            assert there.wait(HANGS)

    def test_all_gpus_of_a_turn_count(self, turns):
        there, take = self.taking(turns, gpus("1"), gpus("2"))
        with turns.turn(gpus("0"), gpus("2")):
            waiting = threading.Thread(target=take, daemon=True)
            waiting.start()
            assert not there.wait(SOON)
        assert there.wait(HANGS)
        waiting.join(HANGS)

    def test_a_turn_in_a_turn(self, turns):
        with turns.turn(gpus("0")):
            with turns.turn(gpus(None)):
                pass
            there, take = self.taking(turns, gpus("0"))
            waiting = threading.Thread(target=take, daemon=True)
            waiting.start()
            assert not there.wait(SOON), "the end of the inner turn has ended the outer one"
        assert there.wait(HANGS)
        waiting.join(HANGS)

    def test_an_error_ends_it(self, turns):
        with pytest.raises(KeyboardInterrupt), turns.turn(gpus("0")):
            raise KeyboardInterrupt
        there, take = self.taking(turns, gpus("0"))
        with thread(take):
            assert there.wait(HANGS)

    @pytest.mark.timeout(60, method="signal")  # which ends a wait of the main thread for itself
    @pytest.mark.parametrize("where", ["in a turn", "waiting"])
    def test_a_signal_handler_takes_one_too(self, turns, where):
        done = threading.Event()

        def handler(*_) -> None:
            with turns.turn(gpus("0" if where != "waiting" else "1")):
                done.set()

        before = signal.signal(signal.SIGUSR1, handler)
        try:
            if where == "in a turn":
                with turns.turn(gpus("0")):
                    signal.raise_signal(signal.SIGUSR1)
            else:
                self.wait_with_a_signal(turns, done)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert done.is_set()

    def wait_with_a_signal(self, turns, done):
        """Wait for GPU 0 in the main thread, which another thread has until the handler has had its turn on GPU 1."""
        main, taken = threading.get_ident(), threading.Event()

        def hold() -> None:
            with turns.turn(gpus("0")):
                taken.set()
                while not done.wait(SOON):
                    signal.pthread_kill(main, signal.SIGUSR1)

        with thread(hold):
            assert taken.wait(HANGS)
            with turns.turn(gpus("0")):
                assert done.is_set()


class NoStart:
    """A manager whose start does not end before ``go_on``."""

    probe = None

    def __init__(self, **servers) -> None:
        self.there = servers
        self.starts = threading.Event()
        self.go_on = threading.Event()

    def servers(self):
        return dict(self.there)

    def check(self, _spec):
        pass

    def expect(self, _spec):
        pass

    def start(self, spec, **_):
        self.starts.set()
        assert self.go_on.wait(HANGS)
        return SimpleNamespace(server=a_server(name=spec.name))


@pytest.fixture
def sleeps(monkeypatch):
    """A server on GPU 1 that falls asleep at once: ``sleeps("1")``."""
    answer = SimpleNamespace(is_sleeping=lambda: False)

    def make(where):
        made = a_server(name="other", args=("--enable-sleep-mode",), gpus=where)
        monkeypatch.setattr(made._run.connector, "api", lambda: answer)
        return made

    result = SleepResult("other", asleep=True, seconds=0.0, before=None, after=None)
    monkeypatch.setattr(SleepMode, "_sleep", lambda *_, **__: result)
    return make


class TestSwitch:
    def test_servers_on_other_gpus_sleep_while_a_start_is_waited_for(self, sleeps):
        manager, other = NoStart(), sleeps("1")
        with thread(lambda: switching.switch(manager, ServerSpec("m", gpus="0"))):
            assert manager.starts.wait(HANGS)
            try:
                with thread(other.sleep):
                    pass
                assert other.asleep == 1
            finally:
                manager.go_on.set()

    @pytest.mark.parametrize("where", ["0", "0,1", None])
    def test_servers_that_may_be_on_the_same_gpu_wait(self, sleeps, where):
        manager, other = NoStart(), sleeps(where)
        with thread(lambda: switching.switch(manager, ServerSpec("m", gpus="0"))):
            assert manager.starts.wait(HANGS)
            waiting = threading.Thread(target=other.sleep, daemon=True)
            waiting.start()
            waiting.join(SOON)
            assert (other.asleep, waiting.is_alive()) == (0, True)
            manager.go_on.set()
        waiting.join(HANGS)
        assert other.asleep == 1

    def test_its_turn_is_on_the_gpus_of_the_others_too(self, monkeypatch):
        """So that it takes no turn within its own that another switch may wait for."""
        manager, taken = NoStart(other=a_server(name="other", gpus="1,2")), []
        real = TURNS.turn

        def turn(*wanted):
            taken.append(set(wanted))
            return real(*wanted)

        monkeypatch.setattr(TURNS, "turn", turn)
        monkeypatch.setattr(switching, "_move_away", lambda *_: None)
        manager.go_on.set()
        switching.switch(manager, ServerSpec("m", gpus="0,1"))
        assert taken == [{gpus("0,1"), gpus("1,2")}]
