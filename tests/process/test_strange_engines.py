"""Servers whose processes hide from their guards: in namespaces, under other users, without the mark, adopted elsewhere."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import by_hand
import pytest

from vllm_magic.linux import pidfd, processes

if TYPE_CHECKING:
    from vllm_magic.linux.processes import Identity

# {vllm} is the stand-in. What is left behind in the background ends by itself after two minutes.
ENGINES = {
    "own PID namespace": 'exec unshare --pid --fork {vllm} "$@"',
    "own PID and mount namespace": 'exec unshare --pid --fork --mount-proc {vllm} "$@"',
    "own user namespace": 'exec unshare --user --map-root-user {vllm} "$@"',
    "mark taken out": 'exec env -u MAGIC_VLLM_SERVER {vllm} "$@"',
    "child of another user": 'setpriv --reuid 65534 --clear-groups sleep 120 & exec {vllm} "$@"',
    "child in a chroot": 'chroot / sleep 120 & exec {vllm} "$@"',
    "child that is stopped": 'sleep 120 & kill -STOP $!; exec {vllm} "$@"',
    "child without environment": 'env -i setsid sleep 120 & exec {vllm} "$@"',
    "few descriptors": 'ulimit -n 64; exec {vllm} "$@"',
    "adopts its orphans": (
        'exec {python} -c "import ctypes, os, sys; '
        'ctypes.CDLL(None).prctl(36, 1); os.execv(sys.argv[1], sys.argv[1:])" {vllm} "$@"'
    ),
}


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path, executable) -> str:
    """An executable that behaves as its name says."""
    program = tmp_path / "vllm"
    line = ENGINES[request.param].format(vllm=executable, python=sys.executable)
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    return str(program)


def family(server) -> list[Identity]:
    """The server's guards and everything below them, the outer guard first."""
    inner = processes.read(processes.read(server.pid).parent)
    outer = processes.read(inner.parent)
    table = processes.table()
    below = processes.descendants(table, outer.identity.pid)
    return [outer.identity, inner.identity, *(table[pid].identity for pid in below if table[pid].alive)]


def living(all_of_it: list[Identity]) -> list[str]:
    return [f"{one.pid} {processes.title(one.pid)}" for one in all_of_it if processes.is_alive(one)]


@pytest.fixture
def server(manager, spec, engine):
    """A server of this engine that has a daemon too."""
    return manager.start(spec(executable=engine, faults={"daemonise": True})).server


def test_a_stop_ends_all_of_it(server, traces):
    all_of_it = family(server)
    assert server.stop().verified
    assert living(all_of_it) == []
    traces.check()


def test_killed_guards_leave_nothing_of_it(server, traces):
    all_of_it = family(server)
    for guard in all_of_it[:2]:
        pidfd.send(guard, signal.SIGKILL)
    assert server._run.wait_over(60)
    # The kernel hears of the end of a guard by its connection, which is closed a moment before the process is gone.
    assert pidfd.wait_for_all(set(all_of_it[:2]), by_hand.LIMIT) == set()
    assert living(all_of_it) == []
    traces.check()


def test_a_state_folder_that_was_deleted(manager, spec, home):
    server = manager.start(spec()).server
    all_of_it = family(server)
    by_hand.remove_tree(home)
    assert server.stop().verified
    assert living(all_of_it) == []


def test_shared_memory_that_nobody_has_noted(manager, spec, traces):
    """Of a server that starts: whoever had it mapped is dead, and both guards are killed before they looked."""
    server = manager.start(spec(faults={"hang_in": "load"}), wait=False).server
    by_hand.until(lambda: "Starting to load" in "".join(server.log(50)), "it does not load")
    all_of_it = family(server)
    engine = {one for one in all_of_it if "VLLM::" in processes.title(one.pid)}  # and its worker
    (leader,) = (one for one in all_of_it if one.pid == server.pid)
    for one in (*all_of_it[:2], leader):  # they would clear up after the engine
        pidfd.send(one, signal.SIGSTOP)
    for one in engine:
        pidfd.send(one, signal.SIGKILL)
    assert pidfd.wait_for_all(engine, 60) == set()
    for guard in all_of_it[:2]:
        pidfd.send(guard, signal.SIGKILL)
    assert server._run.wait_over(60)
    # The kernel hears of the end of a guard by its connection, which is closed a moment before the process is gone.
    assert pidfd.wait_for_all(set(all_of_it[:2]), by_hand.LIMIT) == set()
    assert living(all_of_it) == []
    traces.check()
