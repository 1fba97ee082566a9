"""A fault of vllm_magic itself in the thread that follows a server: the server is released all the same, and that is proved."""

from __future__ import annotations

import os
import threading
import time

import pytest

from vllm_magic.engine.client.health import Api
from vllm_magic.errors import ReleaseFailed, VllmMagicError
from vllm_magic.guard.client import GuardPair
from vllm_magic.lifecycle import failure_cause
from vllm_magic.lifecycle.monitor import Monitor
from vllm_magic.lifecycle.state import StateMachine
from vllm_magic.linux import pidfd
from vllm_magic.release import force_kill
from vllm_magic.release.local_verifier import LocalVerifier

LIMIT = 60.0
FAULT = r"A fault of vllm_magic: RuntimeError: on purpose\. Please report it\."


@pytest.fixture
def breaks(monkeypatch):
    """Make functions raise, from the moment on that the test sets the event; ``times`` of their calls, or all."""
    now = threading.Event()

    def patch(owner, name: str, *, times: int | None = None) -> None:
        real, left = getattr(owner, name), [times]

        def call(*args, **kwargs):
            if now.is_set() and left[0] != 0:
                left[0] = None if left[0] is None else left[0] - 1
                raise RuntimeError("on purpose")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    now.patch = patch
    yield now
    now.clear()


def everyone(server) -> set:
    return {one.identity for one in server.processes()}


def stir(server) -> None:
    """Have the thread of the server look once, as any event does."""
    server._run._supervisor._cancelled.wake.set()


class TestWhileItRuns:
    @pytest.mark.parametrize(
        "fields", [{}, {"keep": 600.0}, {"faults": {"daemonise": True, "unmarked": True}}]
    )
    def test_the_server_is_released_and_that_is_proved(self, manager, spec, breaks, traces, fields):
        server = manager.start(spec(**fields), timeout=LIMIT).server
        time.sleep(2.5)  # the guards have told whom they adopted
        members = everyone(server)
        breaks.patch(Monitor, "_next_events")
        breaks.set()
        stir(server)
        assert server._run.wait_over(LIMIT)
        assert server.state == "failed"
        assert server.release is not None
        assert (server.release.verified, server.release.left) == (True, ())
        assert {one.pid for one in server.release.ended} >= {one.pid for one in members}
        assert pidfd.wait_for_all(members, 0.0) == set()
        (line,) = manager.news()
        assert line.startswith(
            "A fault of vllm_magic: RuntimeError: on purpose. Please report it. tiny was released"
        )
        assert manager.stop("tiny") is server.release
        traces.check()

    def test_the_guards_cannot_be_heard(self, manager, spec, breaks, traces):
        server = manager.start(spec(), timeout=LIMIT).server
        breaks.patch(GuardPair, "receive")
        breaks.set()
        os.kill(server.pid, 9)  # they say that it has ended
        assert server._run.wait_over(LIMIT)
        assert server.release.verified
        traces.check()

    def test_while_it_starts(self, manager, spec, breaks, traces):
        server = manager.start(spec(faults={"hang_in": "init"}), wait=False).server
        while server.pid is None:
            time.sleep(0.01)
        breaks.patch(StateMachine, "_on_time")
        breaks.set()
        with pytest.raises(VllmMagicError, match=FAULT):
            server.wait(LIMIT)
        assert server.release.verified
        traces.check()

    def test_while_it_is_being_stopped(self, manager, spec, breaks, traces):
        server = manager.start(spec(), timeout=LIMIT).server
        breaks.patch(GuardPair, "stop")
        breaks.set()
        release = server.stop()
        assert (release.verified, release.why, server.state) == (True, "asked", "released")
        assert [line.startswith("A fault of vllm_magic: RuntimeError") for line in manager.news()] == [True]
        traces.check()

    def test_a_look_at_its_health_ends_nothing(self, manager, spec, breaks):
        breaks.patch(Api, "health", times=3)
        breaks.set()
        assert manager.start(spec(), timeout=LIMIT).server.state == "ready"
        assert len(manager.news()) == 1

    def test_who_only_hears_of_it_ends_nothing(self, manager, spec, breaks):
        breaks.patch(manager._sampler, "note_change")
        breaks.set()
        server = manager.start(spec(), timeout=LIMIT).server
        assert server.state == "ready"
        assert any(line.startswith("A fault of vllm_magic: RuntimeError") for line in manager.news())
        breaks.clear()
        assert server.stop().verified
        assert server.state == "released"


class TestTheEnd:
    def test_the_proof_breaks(self, manager, spec, breaks, traces):
        """What is known of the end is said, and another stop looks again."""
        server = manager.start(spec(), timeout=LIMIT).server
        breaks.patch(LocalVerifier, "verify", times=1)
        breaks.set()
        with pytest.raises(ReleaseFailed, match=rf"{FAULT}.* Stop it again for another check\."):
            server.stop()
        assert server.release.ended
        assert server.stop().verified
        traces.check()

    def test_the_guards_need_nothing_of_the_kernel(self, manager, spec, breaks, traces):
        """The kernel may have no free descriptor, so that it can end nothing itself."""
        breaks.patch(Monitor, "_observe_before_stop")
        for name in ("kill_server", "kill_guards"):
            breaks.patch(force_kill, name)
        server = manager.start(spec(), timeout=LIMIT).server
        members = everyone(server)
        breaks.set()
        assert server.stop().verified
        assert pidfd.wait_for_all(members, 0.0) == set()
        assert [line.startswith("A fault of vllm_magic: RuntimeError") for line in manager.news()] == [True]
        traces.check()

    def test_the_rescue_breaks(self, manager, spec, breaks, traces):
        """The guards cannot be heard, and so they are killed."""
        server = manager.start(spec(), timeout=LIMIT).server
        members = everyone(server)
        breaks.patch(Monitor, "_next_events")
        breaks.patch(GuardPair, "receive")
        breaks.patch(force_kill, "kill_server", times=3)
        breaks.set()
        stir(server)
        assert server._run.wait_over(LIMIT)
        for _ in range(2):
            assert not server.release.verified
            with pytest.raises(VllmMagicError, match=FAULT):
                server.stop()
        assert server.stop().verified
        assert pidfd.wait_for_all(members, 0.0) == set()
        traces.check()

    def test_the_search_for_its_cause_breaks(self, manager, spec, breaks, traces):
        breaks.patch(failure_cause, "find")
        breaks.set()
        server = manager.start(spec(), timeout=LIMIT).server
        os.kill(server.pid, 9)
        assert server._run.wait_over(LIMIT)
        assert (server.state, server.release.why, server.release.verified) == ("failed", "leader ended", True)
        assert any(line.startswith("A fault of vllm_magic") for line in manager.news())
        traces.check()

    def test_closing_its_clients_breaks(self, manager, spec, breaks):
        server = manager.start(spec(), timeout=LIMIT).server
        breaks.patch(server._run.clients, "close")
        breaks.set()
        server._run.begin_stop()
        assert server._run.wait_over(LIMIT)
        assert server.state == "released"
