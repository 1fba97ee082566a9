"""The loop of the monitor, with a connection at whose other end no guard is: what is heard, in which order, and what is sent."""

from __future__ import annotations

import contextlib
import queue
import socket
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from followed import ENDED, QUIET, Followed, ready, starting

from vllm_magic import background
from vllm_magic.guard.client import Guards
from vllm_magic.guard.protocol import Decoder, Started, Stop, Stopping, Why, encode
from vllm_magic.lifecycle import monitor as monitors
from vllm_magic.lifecycle.actions import CheckGuards, CheckHealth, ReadUse
from vllm_magic.lifecycle.events import (
    HealthChecked,
    LeaderStarted,
    StopPlan,
    StopRequested,
    TimePassed,
    UseRead,
)
from vllm_magic.lifecycle.idle_timeout import ServerUse
from vllm_magic.lifecycle.monitor import Monitor
from vllm_magic.linux.eventfd import EventFd
from vllm_magic.linux.processes import Identity, own_identity
from vllm_magic.provisioning.base import StartKind
from vllm_magic.release import force_kill

NOBODY = [2**22 - 1, 1]  # no process has this pid and start
STARTED = Started(NOBODY, NOBODY, NOBODY)


class NoGuards(Guards):
    """One end of a connection; the test has the other one."""

    pid = NOBODY[0]

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        super().__init__(ours, "/nowhere")
        self.was_killed = False

    def say(self, *messages) -> None:
        self.theirs.sendall(b"".join(map(encode, messages)))

    def end(self) -> None:
        self.theirs.shutdown(socket.SHUT_WR)

    def heard(self) -> list:
        self.theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return Decoder().feed(self.theirs.recv(65536))
        return []

    def kill(self) -> None:
        if not self.was_killed:
            self.end()
        self.was_killed = True


@pytest.fixture
def guards():
    made = NoGuards()
    yield made
    made.close()
    made.theirs.close()


@pytest.fixture
def follow(guards, tmp_path, monkeypatch):
    """Make the monitor of a server that `followed` has brought somewhere: ``follow(server)``."""
    monkeypatch.setenv("VLLM_MAGIC_HOME", str(tmp_path))
    (tmp_path / "log").touch()
    verifier = SimpleNamespace(
        baseline=SimpleNamespace(gpus=()),
        chosen=frozenset(),
        known=set(),
        observe_before_stop=lambda _: None,
        observe_ready=lambda _: None,
    )
    prepared = SimpleNamespace(
        folder=SimpleNamespace(log=tmp_path / "log"),
        verifier=verifier,
        gpus=(),
        address="127.0.0.1",
        port=1,
        downloads=SimpleNamespace(look=lambda: None),
        kind=StartKind.COLD,
        cold_because="",
    )
    wake, requests, notices = EventFd(), queue.SimpleQueue(), []
    wake.open()

    with contextlib.ExitStack() as held:

        def make(server: Followed) -> Monitor:
            api = SimpleNamespace(health=lambda: None, activity=lambda: None)
            made = Monitor(server.machine, prepared, guards, api, requests, wake, notices.append, held)
            made.notices, made.requests, made.wake = notices, requests, wake
            return made

        yield make
    wake.close()


def long_ago(server: Followed) -> Followed:
    """The same, as if it had been stopped an hour ago."""
    server.now = time.monotonic() - 3600
    server.stop()
    return server


def test_a_stop_goes_to_the_guards_and_their_end_is_the_end(follow, guards):
    monitor = follow(Followed())
    guards.say(STARTED)
    monitor.requests.put(StopPlan(5.0, 2.5))
    monitor.wake.set()
    guards.say(Stopping(Why.ASKED.value), ENDED)
    guards.end()
    monitor.run()
    assert guards.heard() == [Stop(5.0, 2.5)]
    assert isinstance(monitor.notices[0], LeaderStarted)
    assert (monitor.state.leader, monitor.state.ended) == (Identity(*NOBODY), (ENDED,))
    assert monitor.state.is_over
    assert not guards.was_killed


def test_what_was_received_before_is_heard_first(follow, guards):
    """As of a spare, which has started before it became this server."""
    guards.put_back([STARTED])
    guards.end()
    monitor = follow(Followed())
    monitor.run()
    assert isinstance(monitor.notices[0], LeaderStarted)


def test_guards_that_say_nothing_are_killed(follow, guards):
    monitor = follow(long_ago(ready()))
    monitor.run()
    assert guards.was_killed
    assert monitor.state.is_over


def test_what_they_have_said_counts_before_their_deadline(follow, guards):
    """This process may have been suspended, not they."""
    guards.say(Stopping(Why.ASKED.value), ENDED)
    guards.end()
    monitor = follow(long_ago(ready()))
    monitor.run()
    assert not guards.was_killed
    assert (monitor.state.why, monitor.state.ended) == (Why.ASKED, (ENDED,))


def test_an_answer_to_an_older_look_is_dropped_when_a_drain_begins(follow, monkeypatch):
    server = ready(ttl=600)
    server.now = time.monotonic()
    assert server.passes() == [ReadUse()]
    monitor = follow(server)
    monitor._poller.register(monitor.wake.fileno())
    monitor._use, newer = Future(), Future()
    monitor._use.set_result(QUIET)
    monkeypatch.setattr(background, "call", lambda *_: newer)
    monitor.requests.put(StopPlan(5.0, 2.5, drain=600))
    monitor.wake.set()
    events = []
    for event in monitor._next_events():
        events.append(type(event))
        monitor._handle(event)
    assert events == [StopRequested, TimePassed]
    assert monitor._use is newer
    assert monitor.state.drain_until is not None


class TestLooks:
    def test_without_a_thread_nothing_is_seen(self, follow, monkeypatch):
        monkeypatch.setattr(background, "call", lambda *_: None)
        monitor = follow(starting())
        seen = monitor._check_health(CheckHealth())
        assert isinstance(seen, HealthChecked)
        assert not seen.is_ready
        seen = monitor._read_use(ReadUse())
        assert isinstance(seen, UseRead)
        assert seen.use == ServerUse(None)

    def test_a_fault_in_one_is_told_with_what_is_known_then(self, follow):
        monitor = follow(starting())
        monitor._health, monitor._use = Future(), Future()
        for look in (monitor._health, monitor._use):
            look.set_exception(RuntimeError("on purpose"))
        health, use = monitor._finished_calls()
        assert not health.is_ready
        assert use.use == ServerUse(None)
        assert health.fault == use.fault
        assert "RuntimeError: on purpose" in use.fault
        assert list(monitor._finished_calls()) == []


@pytest.mark.parametrize(("guard", "are_stopped"), [(own_identity(), False), (Identity(*NOBODY), True)])
def test_guards_that_run_are_only_slow(follow, guards, guard, are_stopped):
    server = Followed()
    server.says(Started([*guard], [*guard], [*guard]))
    assert follow(server)._check_guards(CheckGuards()).are_stopped is are_stopped


class TestAFault:
    def test_the_guards_release_the_server(self, follow, guards):
        guards.say(STARTED, Stopping(Why.ASKED.value), ENDED)
        guards.end()
        monitor = follow(Followed())
        monitor.give_up()
        assert guards.heard() == [Stop(0.0, 0.0)]
        assert not guards.was_killed
        assert (monitor.state.leader, monitor.state.ended) == (Identity(*NOBODY), (ENDED,))
        assert monitor.state.why is Why.FAULT

    def test_guards_that_do_not_end_are_killed(self, follow, guards, monkeypatch):
        monkeypatch.setattr(monitors, "LAST_MESSAGES_LIMIT", 0.0)
        guards.say(STARTED, ENDED)
        monitor = follow(Followed())
        monitor.give_up()
        assert guards.was_killed
        assert monitor.state.ended == (ENDED,)

    def test_guards_that_cannot_be_killed_are_not_waited_for_without_an_end(
        self, follow, guards, monkeypatch
    ):
        monkeypatch.setattr(monitors, "LAST_MESSAGES_LIMIT", 0.0)
        guards.was_killed = True  # that changes nothing
        monitor = follow(Followed())
        monitor.give_up()
        assert monitor.state.is_over

    def test_guards_that_cannot_be_heard_are_killed(self, follow, guards, monkeypatch):
        """Only the outer guard at first: the inner one then releases the server."""

        def fail(*_) -> None:
            raise RuntimeError("on purpose")

        killed = []
        monkeypatch.setattr(guards, "receive", fail)
        monkeypatch.setattr(guards, "kill", lambda: killed.append("outer"))
        monkeypatch.setattr(force_kill, "kill_guards", lambda _: killed.append("both"))
        guards.end()
        follow(ready()).give_up()
        assert killed == ["outer", "both"]

    def test_one_in_the_way_of_the_end_does_not_keep_the_server(self, follow, guards):
        def fail(_) -> None:
            raise RuntimeError("on purpose")

        guards.end()
        monitor = follow(ready())
        monitor._do = dict.fromkeys(monitor._do, fail)
        monitor.give_up()
        assert guards.heard() == [Stop(0.0, 0.0)]
