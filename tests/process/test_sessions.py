"""Find the descendants of processes by sessions: the same processes as by reading all, with few reads."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import by_hand
import pytest

from vllm_magic.linux import marks, processes, sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "MAGIC_VLLM_SERVER=test-sessions"
# A leader that adopts orphans; below it a child, one in a session of its own with a child there, and two in a session
# whose maker has ended. Each says its pid, then all wait to be killed.
FAMILY = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none stays a zombie

def fork(*then):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for one in then:
            one()
        os.write(write, str(os.getpid()).encode())
        signal.alarm(300)
        signal.pause()
    pid = int(os.read(read, 20))
    if pid != child:  # the maker of that process ends
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            pass
    return pid

def and_a_child():
    os.write(1, b"%d " % fork())

def in_two_steps():
    if os.fork():
        os._exit(0)

pids = [fork(), fork(os.setsid, and_a_child), fork(os.setsid, in_two_steps, and_a_child)]
print(*pids, flush=True)
sys.stdin.read()
"""
# So many in one session.
STRANGERS = """
import os, signal, sys
pids = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        signal.alarm(300)
        signal.pause()
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def running(program: str, *, seal: str = "", **env: str) -> Iterator[tuple[int, set[int]]]:
    """A program in a session of its own: its pid, and those that it says; all are gone at the end.

    Args:
        program: in Python.
        seal: the id of a server that it belongs to.
        env: what its environment has besides.
    """
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **env},
        preexec_fn=(lambda: marks.seal(seal)) if seal else None,  # noqa: PLW1509 - it sets a limit
    ) as child:
        assert child.stdout
        said = set(map(int, child.stdout.readline().split()))
        try:
            yield child.pid, said
        finally:
            for pid in said:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def read(monkeypatch) -> set[int]:
    """The pids of the processes that are read."""
    pids: set[int] = set()
    real = processes.read

    def note(pid: int):
        pids.add(pid)
        return real(pid)

    monkeypatch.setattr(processes, "read", note)
    return pids


def test_a_scan_finds_all_processes_below_the_leader():
    with running(FAMILY) as (leader, family):
        assert len(family) == 5
        table = sessions.near([leader])
        assert processes.descendants(table, leader) == family
        now = processes.read(leader)
        assert now == table[leader]._replace(state=now.state)  # it may run now, and have slept then
        found = {processes.read(pid).session for pid in family}
        assert len(found) == 3
        assert any(processes.read(session) is None for session in found)  # one maker has ended


def test_other_processes_are_not_read(read):
    with running(STRANGERS) as (maker, strangers), running(FAMILY) as (leader, family):
        read.clear()
        assert sessions.near([leader]).keys() >= family
        assert read >= family
        assert maker in read
        assert read & strangers == set()


def test_a_session_by_its_number_alone():
    """The session's maker may have ended, and been reaped."""
    with running(FAMILY) as (_, family):
        session = next(
            one for one in {processes.read(pid).session for pid in family} if processes.read(one) is None
        )
        assert len(sessions.near([session]).keys() & family) == 2


def test_a_scan_near_no_process():
    assert sessions.near([]) == {}
    assert sessions.near([2**22]) == {}


def test_older_sessions_are_left_out():
    with running(STRANGERS) as (maker, strangers), running(FAMILY) as (leader, family):
        older = processes.read(leader).identity._replace(start=processes.read(maker).identity.start)
        look = sessions.SessionScan()
        assert {leader, maker, *strangers}.isdisjoint(
            look.made_since(older._replace(start=older.start + 1000))
        )
        assert {leader, maker, *strangers, *family} <= set(look.made_since(older))


def test_sessions_without_the_system_call(monkeypatch):
    with running(FAMILY) as (leader, family):
        allowed = sessions.near([leader]).keys()

        def forbid(_: int) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "getsid", forbid)
        assert family < sessions.near([leader]).keys() == allowed


def test_threads_share_a_scan(monkeypatch):
    count, made = 20, []
    asked = threading.Barrier(count + 1)

    def look(seen: set[int]) -> None:
        asked.wait(60)
        seen.add(id(sessions.scan()))

    def slow() -> list[int]:
        made.append(None)
        time.sleep(0.2)  # long enough for all to have asked
        return [os.getpid()]

    monkeypatch.setattr(processes, "pids", slow)
    seen: set[int] = set()
    threads = [threading.Thread(target=look, args=(seen,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    asked.wait(60)
    for thread in threads:
        thread.join(60)
    assert len(made) < count / 2
    before = len(made)
    sessions.scan()  # nobody else's began after this
    assert len(made) == before + 1
    assert sessions._scans._latest is None  # it is not kept


def test_a_lock_that_is_never_released(monkeypatch):
    """As in a child that was forked while another thread scanned."""
    monkeypatch.setattr(sessions, "LOCK_LIMIT", 0.01)
    with sessions._scans._lock:
        assert os.getpid() in sessions.near([os.getpid()])


def test_processes_with_the_mark():
    """Processes of a server without a seal."""
    name, _, value = MARK.partition("=")
    with running(STRANGERS) as (_, strangers), running(FAMILY, **{name: value}) as (pid, family):
        leader = processes.read(pid).identity
        for one in (leader, None):
            assert marks.proved_pids(MARK.encode(), one) == {pid, *family}
            found = {member.identity.pid for member in marks.members(MARK.encode(), one)}
            assert found == {pid, *family}
            assert found.isdisjoint(strangers)


def test_processes_with_the_seal():
    """The seal counts also without the mark in the environment; the mark alone does not."""
    identifier = secrets.token_hex(4)
    mark = f"{marks.MARK}={identifier}".encode()
    environment = {marks.MARK: identifier}
    with (
        running(STRANGERS, **environment) as (other, strangers),
        running(FAMILY, seal=identifier) as (pid, family),
    ):
        leader = processes.read(pid).identity
        for one in (leader, None):
            assert marks.proved_pids(mark, one) == {pid, *family}
            assert {member.identity.pid for member in marks.members(mark, one)} == {pid, *family}
        assert {one.identity.pid for one in marks.with_copied_environment(mark, None)} == {other, *strangers}
        assert marks.is_marked(pid, mark)
        assert marks.is_marked(other, mark)
        assert not marks.is_marked(os.getpid(), mark)


def test_a_server_without_a_seal_where_there_are_seals():
    """In the leader's session, the environment is enough, also after the leader's death."""
    identifier = secrets.token_hex(4)
    mark = f"{marks.MARK}={identifier}".encode()
    session = (
        "import os, sys; os.fork() or os.execv('/bin/sleep', ['sleep', '120']); print(flush=True); os.wait()"
    )
    environment = {**os.environ, marks.MARK: identifier}
    with subprocess.Popen(
        [sys.executable, "-c", session], stdout=subprocess.PIPE, env=environment, start_new_session=True
    ) as leader:
        leader.stdout.readline()
        known = processes.read(leader.pid).identity
        (child,) = processes.children(leader.pid)
        by_hand.until(lambda: processes.has_environment(child, mark), "it is not executed")
        leader.kill()
        leader.wait()
        try:
            assert [one.identity.pid for one in marks.members(mark, known)] == [child]
        finally:
            os.kill(child, signal.SIGKILL)


EXECUTES = """
import os, sys
left = int(sys.argv[2])
if left:
    os.execv(sys.executable, [sys.executable, "-S", "-E", "-c", sys.argv[1], sys.argv[1], str(left - 1)])
"""


def test_the_environment_of_a_process_that_executes_programs():
    """During execve(2), the file is empty for a moment, and a process of a server without a seal must be seen all the same."""
    command = [sys.executable, "-S", "-E", "-c", EXECUTES, EXECUTES, "300"]
    seen = []
    with subprocess.Popen(command, env={"A": "b"}) as child:
        while child.poll() is None:
            seen.append(processes.has_environment(child.pid, b"A=b"))
    assert child.returncode == 0
    while seen and not seen[-1]:  # while the process ended
        seen.pop()
    assert seen
    assert all(seen)


def test_a_server_inside_a_server_has_its_own_seal():
    ids = [secrets.token_hex(4) for _ in range(2)]

    def both():
        for one in ids:
            marks.seal(one)

    with subprocess.Popen(["sleep", "300"], preexec_fn=both) as child:  # noqa: PLW1509 - it sets a limit
        found = [marks.proved_pids(f"{marks.MARK}={one}".encode(), None) for one in ids]
        child.kill()
    assert found == [set(), {child.pid}]
