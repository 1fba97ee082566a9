"""The sampler: what it sees, what cannot hold it up, and that nothing of it stays."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter

import pytest
from by_hand import until
from fake_gpu import fakegpu

from vllm_magic.engine.client import metrics
from vllm_magic.linux import processes
from vllm_magic.linux.ownership import Ownership
from vllm_magic.monitoring import poller, sampler

GIB = 2**30
OTHER = 3 * GIB
HALF = ("--gpu-memory-utilization", "0.5")


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("vllm-magic")]


def last(server):
    samples = server._run.curve.samples()
    return samples[-1] if samples else None


def asked_for(server) -> list:
    """The samples for which the server has told of its requests."""
    return [one for one in server._run.curve.samples() if one.running is not None]


@pytest.fixture(autouse=True)
def long_end(monkeypatch):
    """On a busy machine a look may come late."""
    monkeypatch.setattr(sampler, "POLLED_AFTER_END", 60.0)


@pytest.fixture
def quick_end(monkeypatch):
    monkeypatch.setattr(sampler, "POLLED_AFTER_END", 0.5)


class TestWhatItSees:
    def test_memory_and_whose_it_is(self, manager, spec, fake_gpus):
        with fakegpu.holding(fake_gpus, OTHER / GIB, gpu=1):
            one = manager.start(spec("tiny", *HALF, name="one", gpus="1"), timeout=60).server
            until(lambda: last(one) and last(one).held == (0, 2 * GIB), "its memory is not seen")
            assert last(one).used == (0, OTHER + 2 * GIB)
            two = manager.start(spec("tiny", *HALF, name="two", gpus="0"), timeout=60).server
            until(lambda: last(two) and last(two).held == (2 * GIB, 0), "its memory is not seen")
            until(lambda: last(one).used == (2 * GIB, OTHER + 2 * GIB), "the other's memory is not seen")
            assert last(one).held == (0, 2 * GIB)
            assert (one._run.curve.gpus, two._run.curve.gpus) == ((1,), (0,))
            assert (one._run.curve.baseline, two._run.curve.baseline) == ((0, OTHER), (0, OTHER + 2 * GIB))
            names = Counter(manager.attribution.values())
            assert names == {"one": 1, "two": 1}
            assert set(manager.attribution) <= {
                process.identity.pid for server in (one, two) for process in server.processes()
            }
            assert [gpu.used for gpu in manager.latest.gpus] == [2 * GIB, OTHER + 2 * GIB]
            two.stop()
            until(lambda: last(two).used == (0, OTHER + 2 * GIB), "its memory is not seen to come back")
            assert last(two).held == (0, 0)
            until(lambda: last(one).used == (0, OTHER + 2 * GIB), "its memory is not seen to come back")

    def test_requests_and_tokens(self, manager, spec):
        server = manager.start(spec(faults={"token_s": 0.02}), timeout=60).server
        until(lambda: asked_for(server), "it is not asked")
        assert last(server).running == 0
        answer = threading.Thread(target=lambda: server.chat("one two three", max_tokens=150))
        answer.start()
        until(lambda: (last(server).generation_rate or 0) > 10, "its tokens are not seen")
        assert last(server).running == 1
        assert any(one.prompt_rate for one in asked_for(server))
        answer.join()
        until(lambda: last(server).running == 0, "the end is not seen")
        server.stop()
        until(lambda: last(server).running is None, "it is asked after its end")

    def test_what_it_has_just_seen_needs_no_look(self, manager, spec, fake_gpus, monkeypatch):
        server = manager.start(spec(gpus="0"), timeout=60).server
        monkeypatch.setattr(sampler, "MAX_SNAPSHOT_AGE", 60.0)
        until(lambda: manager._sampler.fresh, "nothing is seen")
        with monkeypatch.context() as patched:
            patched.setattr(manager.probe, "snapshot", lambda: pytest.fail("the driver is asked"))
            assert [gpu.used for gpu in manager.recent_gpus().gpus] == [2 * GIB, 0]
        server.stop()  # what was seen before a change is none
        assert [gpu.used for gpu in manager.recent_gpus().gpus] == [0, 0]
        monkeypatch.setattr(sampler, "MAX_SNAPSHOT_AGE", 0.0)
        assert manager._sampler.fresh is None

    def test_one_that_is_not_ready_is_not_asked(self, manager, spec):
        server = manager.start(spec(faults={"hang_in": "load"}), wait=False).server
        until(lambda: len(server._run.curve.samples()) > 3, "it is not looked at")
        assert asked_for(server) == []

    def test_many_are_looked_at_in_turn(self, manager, spec, monkeypatch):
        monkeypatch.setattr(poller, "PER_ROUND", 2)
        servers = [manager.start(spec(name=name), timeout=60).server for name in "abc"]
        ask, asked = poller._read_activity, []

        def noted(server):
            asked.append(server.command.endpoint.url)
            return ask(server)

        monkeypatch.setattr(poller, "_read_activity", noted)
        until(lambda: len(asked) >= 18, "they are not asked")
        # The last notice of the last start may still have come in between at the beginning.
        assert all(len(set(asked[at : at + 3])) == 3 for at in range(6, 16)), asked
        monkeypatch.setattr(poller, "PER_ROUND", 0)
        seen = len(servers[0]._run.curve.samples())
        servers[0].stop()
        until(lambda: len(servers[0]._run.curve.samples()) > seen, "its end is not seen at once")

    def test_one_that_tells_no_metrics(self, manager, spec, monkeypatch):
        monkeypatch.setattr(metrics, "activity", lambda _: None)
        server = manager.start(spec(), timeout=60).server
        before = len(server._run.curve.samples())
        until(lambda: len(server._run.curve.samples()) > before + 2, "it is not looked at")
        assert asked_for(server) == []

    def test_states_have_their_times(self, manager, spec):
        began = time.time()
        server = manager.start(spec(), timeout=60).server
        server.stop()
        assert [state.value for state in server.status.times] == ["starting", "ready", "stopping", "released"]
        assert began <= server.status.times["starting"]
        assert list(server.status.times.values()) == sorted(server.status.times.values())
        assert server.status.times["released"] <= time.time()
        assert server.status.times["ready"] - server.status.times["starting"] == pytest.approx(
            server.ready_after, abs=0.1
        )

    def test_one_that_is_attached(self, manager, spec, home):
        from tests.process.test_manager_states import start_and_die

        start_and_die(spec(keep=60.0))
        server = manager.attach("tiny")
        until(lambda: asked_for(server), "it is not asked")


class TestWhatCannotHoldItUp:
    def test_a_server_that_hangs(self, manager, spec):
        hung = manager.start(spec(name="hung"), timeout=60).server
        well = manager.start(spec(name="well"), timeout=60).server
        until(lambda: asked_for(hung) and asked_for(well), "they are not asked")
        os.kill(hung.pid, signal.SIGSTOP)
        try:
            until(lambda: last(hung).running is None, "the hang is not seen")
            before = len(asked_for(well))
            until(lambda: len(asked_for(well)) > before + 3, "the other is not asked any more")
            assert last(hung).running is None
        finally:
            os.kill(hung.pid, signal.SIGCONT)
        until(lambda: last(hung).running == 0, "it is not asked any more")

    def test_a_driver_that_hangs(self, manager, spec, fake_gpus):
        server = manager.start(spec(gpus="0"), timeout=60).server
        until(lambda: last(server).used and asked_for(server), "nothing is seen")
        pid = manager.probe.pid
        fakegpu.configure(fake_gpus, hang="memory")
        until(lambda: last(server).used == (), "the hang is not seen")
        before = len(asked_for(server))
        until(lambda: len(asked_for(server)) > before + 3, "it is not asked any more")
        assert (last(server).used, last(server).held) == ((), ())
        assert manager.probe.pid == pid  # whoever wants to know more may be more patient
        fakegpu.configure(fake_gpus, hang=None)

    def test_the_last_sight_counts_for_a_while(self, manager, fake_gpus, monkeypatch):
        end = manager.watch(lambda: None)
        until(lambda: manager.latest and manager.latest.gpus, "nothing is seen")
        fakegpu.configure(fake_gpus, hang="memory")
        until(lambda: time.monotonic() - manager.latest.taken > 2 * poller.PERIOD, "it is seen all the same")
        assert manager.latest.gpus
        monkeypatch.setattr(poller, "NO_GPUS_LIMIT", 1.0)
        until(lambda: not manager.latest.gpus, "it counts for ever")
        fakegpu.configure(fake_gpus, hang=None)
        end()

    def test_a_driver_that_hangs_from_the_beginning(self, manager, fake_gpus):
        fakegpu.configure(fake_gpus, hang="init")
        called = Counter()
        end = manager.watch(lambda: called.update(["look"]))
        until(lambda: called["look"] > 3, "the looks do not go on")
        end()
        manager.close()
        assert threads() == []

    def test_a_driver_that_crashes(self, manager, spec, fake_gpus, monkeypatch):
        monkeypatch.setattr("vllm_magic.gpu.background_probe.RESTART_INTERVAL", 0.0)
        server = manager.start(spec(gpus="0"), timeout=60).server
        until(lambda: last(server).used, "nothing is seen")
        fakegpu.configure(fake_gpus, crash="memory")
        until(lambda: last(server).used == (), "the crash is not seen")
        fakegpu.configure(fake_gpus, crash=None)
        until(lambda: last(server).used, "the driver is not asked again")

    def test_a_fault_of_a_look(self, manager, spec, monkeypatch):
        def fail(_: str) -> None:
            raise ValueError("a fault")

        activity = metrics.activity
        monkeypatch.setattr(metrics, "activity", fail)
        broken = Counter()

        def callback() -> None:
            broken.update(["called"])
            raise RuntimeError("a fault of whoever watches")

        manager.watch(callback)
        server = manager.start(spec(), timeout=60).server
        until(lambda: len(server._run.curve.samples()) > 3, "it is not looked at any more")
        assert broken["called"] > 3
        assert asked_for(server) == []
        monkeypatch.setattr(metrics, "activity", activity)
        until(lambda: asked_for(server), "it is not asked any more")

    def test_a_stop_does_not_wait_for_a_look(self, manager, spec, monkeypatch):
        monkeypatch.setattr(poller, "ANSWER_LIMIT", 600.0)
        begun, ended = threading.Event(), threading.Event()

        def never(*_: object) -> None:
            begun.set()
            ended.wait(60)

        monkeypatch.setattr(poller, "_read_activity", never)
        server = manager.start(spec(), timeout=60).server
        assert begun.wait(60)
        assert server.stop().verified
        until(lambda: last(server).at > server.status.times["released"], "the look is waited for")
        ended.set()


class TestWhoWatches:
    def test_without_servers(self, manager, fake_gpus):
        assert manager.latest is None
        looked = threading.Event()
        end = manager.watch(looked.set)
        assert looked.wait(60)
        until(lambda: manager.latest and len(manager.latest.gpus) == 2, "no GPU is seen")
        end()
        end()  # once more is no matter
        until(lambda: threads() == [], "a thread stays")

    def test_a_notice_is_told(self, manager, spec):
        states = []
        server = manager.start(spec(faults={"load_s": 0.5}), wait=False).server
        end = manager.watch(lambda: states.append(server.state.value))
        until(lambda: "ready" in states, "it is not told")
        server.stop()
        until(lambda: "released" in states, "it is not told")
        end()
        assert list(dict.fromkeys(states)) == ["starting", "ready", "stopping", "released"]

    def test_whoever_has_ended_is_not_called(self, manager):
        called = Counter()
        first = manager.watch(lambda: called.update(["first"]))
        manager.watch(lambda: called.update(["second"]))
        until(lambda: called["first"], "nobody is called")
        first()
        time.sleep(0.1)  # a call under way
        before = called["first"]
        now = called["second"]
        until(lambda: called["second"] > now + 2, "nobody is called")
        assert called["first"] == before


class TestItsEnd:
    @pytest.mark.usefixtures("quick_end")
    def test_after_the_last_server(self, manager, spec):
        before = len(os.listdir("/proc/self/fd"))
        one = manager.start(spec(name="one"), timeout=60).server
        two = manager.start(spec(name="two"), timeout=60).server
        one.stop()
        until(lambda: asked_for(two), "it is not asked")
        assert "vllm-magic sampler" in threads()
        two.stop()
        until(lambda: threads() == [], "a thread stays")
        assert last(two).at > two.status.times["released"]
        assert manager._sampler._targets == {}
        again = manager.start(spec(name="one"), timeout=60).server
        until(lambda: asked_for(again), "it does not begin again")
        manager.stop_all()
        manager.close()
        until(lambda: threads() == [], "a thread stays")
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_closed_while_it_looks(self, manager, spec):
        server = manager.start(spec(), timeout=60).server
        until(lambda: asked_for(server), "it is not asked")
        manager.close()
        assert [name for name in threads() if "sampler" in name] == []
        assert manager.probe.pid is None
        server.stop()  # and a notice does not bring it back
        assert [name for name in threads() if "sampler" in name] == []

    def test_a_forked_copy_has_none(self, manager, spec):
        server = manager.start(spec(), timeout=60).server
        until(lambda: asked_for(server), "it is not asked")
        with manager._sampler._lock, manager.probe._lock:  # as another thread may have them
            child = os.fork()
            if child == 0:
                manager.close()
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        before = len(asked_for(server))
        until(lambda: len(asked_for(server)) > before, "it is not asked any more")

    def test_no_thread_is_to_be_had(self, manager, spec, monkeypatch):
        def fail(_: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(poller.Poller, "start", fail)
            server = manager.start(spec(faults={"load_s": 0.5}), wait=False).server
        server.wait(60)
        until(lambda: asked_for(server), "it is not tried again")


class TestKin:
    def test_one_that_died_is_remembered_as_long_as_it_is_listed(self):
        me = processes.read(os.getpid()).identity
        child = os.fork()
        if child == 0:
            signal.pause()
        known = Ownership()
        assert known.leaders_of({child}, [me]) == {child: me}
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert known.leaders_of({child}, [me]) == {child: me}
        assert known.leaders_of(set(), [me]) == {}
        assert known.leaders_of({child}, [me]) == {}
