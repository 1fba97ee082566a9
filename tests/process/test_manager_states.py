"""Random sequences of starts, stops and kills, against a model of what must hold after each of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import stand_in
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stand_in import leftovers
from traces import Traces

from vllm_magic import ledger
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import NameInUse, ServerNotFound
from vllm_magic.ledger import Condition
from vllm_magic.linux import pidfd, processes
from vllm_magic.manager.manager import Manager
from vllm_magic.server.server import Server

INHERITED = 3  # servers taken over in each sequence: each costs a process
LIMIT = 120.0  # seconds for what takes less than one
SLOW_TO_END = {"ignore_sigterm": True, "setsid_child": True, "daemonise": True}

names = st.sampled_from(["a", "b", "c"])
lengths = st.sampled_from(["64", "128"])
graces = st.sampled_from([None, 0.0, 0.2])


@dataclass
class Expected:
    """A server that the model has: it lives, or it failed and was not stopped since."""

    server: Server
    spec: ServerSpec
    lives: bool


def start_and_die(spec: ServerSpec) -> int:
    """Start a server in a process that is killed then; returns once the server waits for a kernel: its pid."""
    program = (
        "import json, sys; from vllm_magic.manager.manager import manager; from vllm_magic.engine.spec import ServerSpec\n"
        "fields = json.loads(sys.stdin.readline())\n"
        "spec = ServerSpec(**{**fields, 'args': tuple(fields['args']), 'env': tuple(map(tuple, fields['env']))})\n"
        "print(manager.start(spec).server.pid, flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdin.write(json.dumps(asdict(spec)) + "\n")
        other.stdin.flush()
        leader = int(other.stdout.readline())
        other.kill()
    deadline = time.monotonic() + LIMIT
    while [one.condition for one in ledger.entries() if one.leader and one.leader.pid == leader] != [
        Condition.KEPT
    ]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return leader


class Kernel(RuleBasedStateMachine):
    """One manager with real servers."""

    executable = ""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="s", dir="/tmp")  # so short that TMPDIR is in it
        os.environ["VLLM_MAGIC_HOME"] = os.environ[leftovers.HOME] = f"{self.folder}/h"
        self.traces = Traces(Path(self.folder, "h"))
        self.manager = Manager()
        self.model: dict[str, Expected] = {}
        self.inherited = 0

    def spec(self, name: str, length: str, stubborn: bool) -> ServerSpec:
        env = stand_in.options(
            import_s=0, init_s=0, load_s=0, warmup_s=0, **(SLOW_TO_END if stubborn else {})
        )
        args = ("--max-model-len", length)
        return ServerSpec("tiny", args, name=name, executable=self.executable, env=tuple(env.items()))

    @rule(name=names, length=lengths, stubborn=st.booleans(), wait=st.booleans())
    def start(self, name: str, length: str, stubborn: bool, wait: bool) -> None:
        spec = self.spec(name, length, stubborn)
        there = self.model.get(name)
        if there and there.lives and there.spec != spec:
            with pytest.raises(NameInUse):
                self.manager.start(spec, wait=wait, timeout=LIMIT)
            return
        started = self.manager.start(spec, wait=wait, timeout=LIMIT)
        if there and there.lives:
            assert started.reused
            assert started.server is there.server
        else:
            assert not started.reused
            self.model[name] = Expected(started.server, spec, lives=True)
        assert not wait or started.server.state == "ready"

    @precondition(lambda self: len(self.model) < 3)
    @rule(name=names, length=lengths, again=st.booleans())
    def inherit(self, name: str, length: str, again: bool) -> None:
        """A server of another kernel, which dies, is taken over: by its name, or by the same start."""
        there = self.model.get(name)
        spec = replace(self.spec(name, length, stubborn=True), keep=60.0)
        if (there and there.lives) or self.inherited == INHERITED:
            return
        self.inherited += 1
        leader = start_and_die(spec)
        if again:
            start = self.manager.start(spec, timeout=LIMIT)
            assert start.reused
            server = start.server
        else:
            server = self.manager.attach(name)
        assert server.pid == leader
        self.model[name] = Expected(server, spec, lives=True)

    @precondition(lambda self: self.model)
    @rule(name=names, grace=graces)
    def stop(self, name: str, grace: float | None) -> None:
        there = self.model.pop(name, None)
        if there is None:
            with pytest.raises(ServerNotFound):
                self.manager.stop(name, grace=grace)
            return
        release = self.manager.stop(name, grace=grace)
        assert release.verified
        assert release.left == ()
        assert there.server.state == ("released" if there.lives else "failed")
        assert there.server.stop() is release

    @precondition(lambda self: len(self.model) > 1)
    @rule(grace=graces)
    def stop_all(self, grace: float | None) -> None:
        releases = self.manager.stop_all(grace=grace)
        assert {release.server for release in releases} == self.model.keys()
        assert all(release.verified for release in releases)
        self.model.clear()

    @precondition(lambda self: any(one.lives for one in self.model.values()))
    @rule(
        which=st.integers(0, 2),
        whom=st.sampled_from([("leader",), ("inner",), ("outer",), ("outer", "inner")]),
    )
    def kill(self, which: int, whom: tuple[str, ...]) -> None:
        living = [one for one in self.model.values() if one.lives]
        there = living[which % len(living)]
        there.server.wait(LIMIT)
        leader = processes.read(there.server.pid)
        inner = processes.read(leader.parent)
        outer = processes.read(inner.parent)
        family = {"leader": leader, "inner": inner, "outer": outer}
        for role in whom:
            pidfd.send(family[role].identity, signal.SIGKILL)
        assert there.server._run.wait_over(LIMIT)
        assert there.server.state == "failed"
        assert there.server.error is not None
        assert there.server.release.verified
        assert not processes.is_alive(leader.identity)
        # A guard whose last socket is closed may have an instant to go.
        assert pidfd.wait_for_all([inner.identity, outer.identity], LIMIT) == set()
        there.lives = False

    @invariant()
    def the_tables_agree(self) -> None:
        servers = self.manager.servers()
        assert {name: one.server for name, one in self.model.items()} == servers
        for name, there in self.model.items():
            assert there.server.state in ({"starting", "ready"} if there.lives else {"failed"})
            if there.server.state == "ready":
                assert processes.read(there.server.pid).alive, name
            if not there.lives:
                assert there.server.processes() == []

    @invariant()
    def nothing_is_shared(self) -> None:
        living = [one.server for one in self.model.values() if one.lives]
        for what in ("port", "api_key"):
            assert len({getattr(server, what) for server in living}) == len(living)
        home = Path(self.folder, "h")
        folders = [path for path in home.iterdir() if path.name != "logs"] if home.exists() else []
        assert len(folders) <= len(living)

    def teardown(self) -> None:
        self.manager.stop_all(grace=0.0)
        self.manager.close()
        self.traces.check()
        shutil.rmtree(self.folder)


@pytest.mark.timeout(1200)
def test_random_sequences(executable, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_HOME", "")  # put back at the end
    monkeypatch.setenv(leftovers.HOME, "")
    monkeypatch.setattr(Kernel, "executable", executable)
    run_state_machine_as_test(
        Kernel,
        settings=settings(
            max_examples=10,
            stateful_step_count=30,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a shorter sequence that fails would be nice, but takes its time
            suppress_health_check=list(HealthCheck),
        ),
    )
