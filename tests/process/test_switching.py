"""Several models, one at a time: who is in the way sleeps, or is stopped."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from by_hand import free_port
from fake_gpu import fakegpu

from vllm_magic.engine.client.health import Api
from vllm_magic.errors import (
    NameInUse,
    RequestFailed,
    SleepFailed,
    StartFailed,
    StartInterrupted,
    StartTimeout,
)
from vllm_magic.jupyter.display import views
from vllm_magic.manager import switching
from vllm_magic.release.result import Release
from vllm_magic.server import sleep_mode
from vllm_magic.server.run import ServerRun
from vllm_magic.server.server import run_of
from vllm_magic.server.sleep_mode import SleepMode

GIB = 2**30


class TestSwitch:
    def test_between_two_that_cannot_sleep(self, manager, spec, traces):
        first = switching.switch(manager, spec("one"), timeout=60)
        assert (first.server.state, first.done) == ("ready", ())
        second = switching.switch(manager, spec("two"), timeout=60)
        (release,) = second.done
        assert isinstance(release, Release)
        assert (release.server, release.verified) == ("one", True)
        assert list(manager.servers()) == ["two"]
        again = switching.switch(manager, spec("two"), timeout=60)
        assert (again.server, again.done) == (second.server, ())
        manager.stop()
        traces.check()

    def test_one_that_starts_is_in_the_way_too(self, manager, spec):
        starting = manager.start(spec("one", faults={"init_s": 60.0}), wait=False).server
        switching.switch(manager, spec("two"), timeout=60)
        assert starting.state == "released"


FAILS = {"fail": "gated"}
HANGS = {"hang_in": "load"}
LIMIT = 300  # seconds for a start
SMALL = ("--gpu-memory-utilization", "0.4")


class TestAFailedSwitch:
    """The servers that were put to sleep or stopped come back, and the error says so."""

    @pytest.fixture
    def manager(self, manager, fake_gpus):
        return manager

    def interrupt_once_it_starts(self):
        """Interrupt the wait for the first server that is reported."""
        first = []

        def report(server):
            first.append(server)
            if len(first) == 1:
                raise KeyboardInterrupt

        return report

    def test_a_stopped_server_is_started_again(self, manager, spec, traces):
        one = manager.start(spec("one", "--seed", "7"), timeout=LIMIT).server
        reported = set()
        with pytest.raises(StartFailed, match="gated") as failed:
            switching.switch(
                manager,
                spec("two", faults=FAILS),
                timeout=LIMIT,
                report=lambda server: reported.add(server.name),
            )
        again = manager.get("one")
        assert (again.spec, again.state, one.state) == (one.spec, "ready", "released")
        assert str(failed.value).endswith(f" one was started again, and is ready at {again.url}.")
        assert failed.value.hint
        assert failed.value.log_tail
        assert "one" in reported
        assert "one was started" not in str(run_of(manager.get("two")).lifecycle.now.error)
        manager.stop_all()
        traces.check()

    def test_each_of_several_comes_back_in_its_way(self, manager, spec):
        slept = manager.start(spec("zero", SLEEPY, *SMALL), timeout=LIMIT).server
        slept.sleep()
        manager.start(spec("one", SLEEPY, *SMALL), timeout=LIMIT)
        manager.start(spec("two", *SMALL), timeout=LIMIT)
        with pytest.raises(StartFailed) as failed:
            switching.switch(manager, spec("three", faults=FAILS), timeout=LIMIT)
        two = manager.get("two")
        assert str(failed.value).endswith(
            f". one is awake again. two was started again, and is ready at {two.url}."
        )
        states = {name: (server.state.value, server.asleep) for name, server in manager.servers().items()}
        assert states == {
            "zero": ("ready", 1),
            "one": ("ready", 0),
            "two": ("ready", 0),
            "three": ("failed", 0),
        }

    def test_after_a_wake_that_fails(self, manager, spec):
        two = manager.start(spec("two", SLEEPY, faults={"wakes": False}), timeout=LIMIT).server
        switching.switch(manager, spec("one", SLEEPY), timeout=LIMIT)
        with pytest.raises(SleepFailed, match=r"two answered 500 to /wake_up.* one is awake again\.$"):
            switching.switch(manager, two.spec, timeout=LIMIT)
        assert manager.get("one").asleep == 0

    def test_after_a_start_that_takes_too_long(self, manager, spec):
        manager.start(spec("one"), timeout=LIMIT)
        with pytest.raises(
            StartTimeout, match=r"two was not ready after 5 s.*\. one (was started|is starting) again"
        ):
            switching.switch(manager, spec("two", faults=HANGS), timeout=5)
        manager.get("one").wait(LIMIT)

    def test_one_that_cannot_be_started_again(self, manager, spec):
        """Another program has taken its port meanwhile."""
        port = free_port()
        manager.start(spec("one", port=port), timeout=LIMIT)
        with socket.socket() as other:

            def take_the_port(_):
                if other.getsockname()[1] != port:
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    other.bind(("127.0.0.1", port))
                    other.listen()

            with pytest.raises(StartTimeout, match=rf"after 5 s.* one did not come back: .*{port}"):
                switching.switch(manager, spec("two", faults=HANGS), timeout=5, report=take_the_port)

    def test_not_if_it_is_not_wanted(self, manager, spec):
        manager.start(spec("one", SLEEPY, *SMALL), timeout=LIMIT)
        manager.start(spec("two", *SMALL), timeout=LIMIT)
        with pytest.raises(StartFailed) as failed:
            switching.switch(manager, spec("three", faults=FAILS), timeout=LIMIT, restore=False)
        assert str(failed.value).endswith(
            ' one sleeps: vllm_magic.servers()["one"].wake() wakes it up. '
            "two was stopped: vllm_magic.start(...) starts it again."
        )
        assert (manager.get("one").asleep, "two" in manager.servers()) == (1, False)

    def test_an_interrupt_of_the_start(self, manager, spec):
        """What was stopped starts again, without a wait; what sleeps is woken up at once."""
        sleeping = manager.start(spec("one", SLEEPY, *SMALL), timeout=LIMIT).server
        manager.start(spec("two", *SMALL), timeout=LIMIT)
        with pytest.raises(
            StartInterrupted,
            match=r"start of three was interrupted.* one is awake again\. two is starting again: ",
        ):
            switching.switch(
                manager, spec("three", faults=HANGS), timeout=LIMIT, report=self.interrupt_once_it_starts()
            )
        assert sleeping.asleep == 0
        manager.get("two").wait(LIMIT)

    def test_an_interrupt_of_a_stop(self, manager, spec, monkeypatch):
        manager.start(spec("one", SLEEPY, *SMALL), timeout=LIMIT)
        manager.start(spec("two", *SMALL), timeout=LIMIT)
        with monkeypatch.context() as patch:
            patch.setattr(ServerRun, "wait_released", interrupt)
            with pytest.raises(StartInterrupted) as failed:
                switching.switch(manager, spec("three"), timeout=LIMIT)
        assert str(failed.value) == (
            "The switch to three was interrupted. one is awake again. "
            "two is starting again: vllm_magic.servers() shows the progress."
        )
        manager.get("two").wait(LIMIT)

    def test_an_interrupt_of_the_wait_for_those_that_come_back(self, manager, spec):
        manager.start(spec("one", gpus="0"), timeout=LIMIT)
        manager.start(spec("two", gpus="1"), timeout=LIMIT)

        def report(server):
            if server.name != "three":
                raise KeyboardInterrupt

        with pytest.raises(StartFailed, match=r"gated.* one is starting again: .* two is starting again: "):
            switching.switch(manager, spec("three", faults=FAILS), timeout=LIMIT, report=report)
        for name in ("one", "two"):
            manager.get(name).wait(LIMIT)

    def test_a_second_interrupt(self, manager, spec, monkeypatch):
        one = manager.start(spec("one", SLEEPY), timeout=LIMIT).server
        monkeypatch.setattr(SleepMode, "wake", interrupt)
        with pytest.raises(StartInterrupted, match=r"one sleeps: .* wakes it up\.$"):
            switching.switch(
                manager, spec("two", faults=HANGS), timeout=LIMIT, report=self.interrupt_once_it_starts()
            )
        assert one.asleep == 1

    def test_nothing_is_stopped_for_a_name_that_is_in_use(self, manager, spec):
        one = manager.start(spec("one", *SMALL), timeout=LIMIT).server
        manager.start(spec("two", *SMALL), timeout=LIMIT)
        with pytest.raises(NameInUse):
            switching.switch(manager, spec("two", "--seed", "7"), timeout=LIMIT)
        assert one.state == "ready"


def test_the_magic_says_what_comes_back(shell, spec, capsys):
    shell.run_line_magic("vllm", "start tiny --name one")
    fails = f"--env STAND_IN='{json.dumps(FAILS)}'"
    result = shell.run_cell(f"%vllm switch tiny --name two {fails}")
    assert isinstance(result.error_in_exec, StartFailed)
    assert "one was started again, and is ready" in str(result.error_in_exec)
    assert "two did not become ready. one is started again:" in capsys.readouterr().out
    result = shell.run_cell(f"%vllm switch tiny --name two --no-return {fails}")
    assert str(result.error_in_exec).endswith("one was stopped: %vllm restart one starts it again.")


class TestSleep:
    def test_one_without_sleep_mode(self, manager, spec):
        manager.start(spec(), timeout=60)
        with pytest.raises(
            SleepFailed, match=r'has no sleep mode: .* vllm_magic\.stop\("tiny"\) gives its memory back'
        ):
            manager.get().sleep()


SLEEPY = "--enable-sleep-mode"


class TestNaps:
    @pytest.fixture
    def manager(self, manager, fake_gpus):
        return manager

    def used(self, manager) -> int:
        return manager.gpus().gpus[0].used

    @pytest.mark.parametrize("level", [1, 2])
    def test_the_memory_comes_back(self, manager, spec, level):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        full = self.used(manager)
        slept = manager.get().sleep(level=level)
        assert server.asleep == level
        assert (slept.before, slept.after) == (2 * GIB, 2 * GIB // 20)
        assert self.used(manager) == full - 2 * GIB + 2 * GIB // 20
        assert "1.90 GiB came back, and it keeps 0.10 GiB" in slept.text
        assert "asleep" in repr(views.status([server.status], None))
        awake = manager.get().wake()
        assert (awake.after, self.used(manager), server.asleep) == (2 * GIB, full, 0)
        assert "holds 2.00 GiB again" in awake.text
        assert server.stop().verified

    def test_one_that_only_says_so(self, manager, spec, monkeypatch):
        monkeypatch.setattr(sleep_mode, "SETTLE_LIMIT", 0.5)
        server = manager.start(spec("m", SLEEPY, faults={"sleeps": False}), timeout=60).server
        with pytest.raises(
            SleepFailed,
            match=r"says that it sleeps, and still holds 2\.00 GiB of 2\.00 GiB\. vllm_magic\.stop",
        ):
            manager.get().sleep()
        assert server.asleep == 1  # it says so
        manager.get().wake()
        assert server.asleep == 0

    def test_one_that_does_not_wake_up(self, manager, spec):
        server = manager.start(spec("m", SLEEPY, faults={"wakes": False}), timeout=60).server
        manager.get().sleep()
        with pytest.raises(SleepFailed, match="m answered 500 to /wake_up"):
            manager.get().wake()
        assert server.asleep == 1
        assert server.stop().verified

    def test_where_the_driver_says_nothing_vllm_is_believed_and_that_is_said(self, manager, spec, fake_gpus):
        fakegpu.configure(fake_gpus, procs_unsupported=1)
        manager.start(spec("m", SLEEPY), timeout=60)
        assert "by vLLM's answer, since the driver does not report its memory" in manager.get().sleep().text

    def test_a_switch_and_back(self, manager, spec):
        one = switching.switch(manager, spec("one", SLEEPY), timeout=60).server
        to_two = switching.switch(manager, spec("two", SLEEPY), timeout=60)
        assert [(done.server, done.asleep) for done in to_two.done] == [("one", True)]
        back = switching.switch(manager, spec("one", SLEEPY), timeout=60)
        assert back.server is one
        assert [(done.server, done.asleep) for done in back.done] == [("two", True), ("one", False)]
        assert (one.asleep, to_two.server.asleep) == (0, 1)
        assert {release.server for release in manager.stop_all()} == {"one", "two"}

    def test_one_that_is_stopped_cannot_sleep(self, manager, spec):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        server.stop()
        with pytest.raises(RequestFailed, match="m takes no requests any more: it is released"):
            server.sleep()


def posts(server) -> list[str]:
    """What it was asked to do, without queries."""
    asked = [line.partition('"POST ')[2] for line in server.log(400) if '"POST ' in line]
    return [path.split(" ")[0].partition("?")[0] for path in asked]


RELOAD = ["/wake_up", "/collective_rpc", "/reset_prefix_cache"]


class TestWhatIsKnownOfASleep:
    """Weights that were thrown away are always read again before a server passes for ready."""

    @pytest.fixture
    def manager(self, manager, fake_gpus):
        return manager

    @pytest.mark.parametrize("go_on", ["wake", "switch"])
    @pytest.mark.parametrize("level", [1, 2])
    def test_an_interrupt_once_it_was_asked_to_sleep(self, manager, spec, monkeypatch, level, go_on):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        with monkeypatch.context() as patch:
            patch.setattr(SleepMode, "_held_after_sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                manager.get().sleep(level=level)
        assert server.asleep == level
        before = len(posts(server))
        if go_on == "wake":
            manager.get().wake()
        else:
            (woken,) = switching.switch(manager, server.spec, timeout=60).done
            assert not woken.asleep
        assert posts(server)[before:] == (RELOAD if level == 2 else RELOAD[:1])
        assert server.asleep == 0
        assert switching.switch(manager, server.spec, timeout=60).done == ()

    def test_an_interrupt_before_it_was_asked_to(self, manager, spec, monkeypatch):
        """It is awake: in the way of others, and it is not said to sleep once somebody looks."""
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        with monkeypatch.context() as patch:
            patch.setattr(Api, "post", interrupt)
            with pytest.raises(KeyboardInterrupt):
                manager.get().sleep()
        other = switching.switch(manager, spec("other", SLEEPY), timeout=60)
        assert [(done.server, done.asleep) for done in other.done] == [("m", True)]
        assert server.asleep == 1

    def test_an_interrupt_between_waking_and_the_weights(self, manager, spec, monkeypatch):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        manager.get().sleep(level=2)
        real = Api.post

        def post(api, path, *args):
            return interrupt() if path == "/collective_rpc" else real(api, path, *args)

        with monkeypatch.context() as patch:
            patch.setattr(Api, "post", post)
            with pytest.raises(KeyboardInterrupt):
                manager.get().wake()
        assert server.asleep == 2
        before = len(posts(server))
        switching.switch(manager, server.spec, timeout=60)
        assert posts(server)[before:] == RELOAD
        assert server.asleep == 0

    def test_one_that_failed_to_sleep(self, manager, spec, monkeypatch):
        monkeypatch.setattr(sleep_mode, "SETTLE_LIMIT", 0.5)
        server = manager.start(spec("m", SLEEPY, faults={"sleeps": False}), timeout=60).server
        with pytest.raises(SleepFailed):
            manager.get().sleep(level=2)
        before = len(posts(server))
        manager.get().wake()
        assert posts(server)[before:] == RELOAD

    def test_one_that_somebody_else_has_put_to_sleep(self, manager, spec):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        assert httpx.post(f"{server.url}/sleep?level=2").status_code == 200
        before = len(posts(server))
        (woken,) = switching.switch(manager, server.spec, timeout=60).done
        assert not woken.asleep
        assert posts(server)[before:] == RELOAD

    def test_twice(self, manager, spec):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        manager.get().sleep(level=2)
        assert "keeps 0.10 GiB" in manager.get().sleep(level=1).text
        assert server.asleep == 2

    def test_one_that_does_not_say_whether_it_sleeps(self, manager, spec, monkeypatch):
        server = manager.start(spec("m", SLEEPY), timeout=60).server
        before = posts(server)
        monkeypatch.setattr(Api, "is_sleeping", lambda _: None)
        with pytest.raises(SleepFailed, match="does not say whether it sleeps"):
            manager.get().sleep(level=2)
        assert (server.asleep, posts(server)) == (0, before)


def interrupt(*_):
    raise KeyboardInterrupt


class TestAdapters:
    def test_load_and_unload(self, manager, spec, tmp_path):
        server = manager.start(spec("m", "--enable-lora"), timeout=60).server
        assert server.loras() == []
        server.load_lora("mine", str(tmp_path))
        assert server.loras() == ["mine"]
        assert server.chat("hi", model="mine", max_tokens=2).text
        with pytest.raises(RequestFailed, match="already been loaded"):
            server.load_lora("mine", str(tmp_path))
        with pytest.raises(RequestFailed, match="No adapter found"):
            server.load_lora("other", "/no/such/folder")
        server.unload_lora("mine")
        assert server.loras() == []
        with pytest.raises(RequestFailed, match="cannot be found"):
            server.unload_lora("mine")

    def test_a_server_that_takes_none(self, manager, spec):
        server = manager.start(spec(), timeout=60).server
        with pytest.raises(RequestFailed, match="start it with --enable-lora"):
            server.load_lora("mine", "/x")
