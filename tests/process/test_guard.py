"""The guard pair by itself: what it ends, and what happens when one of the three is killed."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import by_hand
import pytest
from records import record

from vllm_magic.guard import control_client
from vllm_magic.guard import record as records
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.inner import KIN_LOOK
from vllm_magic.guard.ladder import KILL_LIMIT
from vllm_magic.guard.outer import BACKSTOP, LONGEST, Outer
from vllm_magic.guard.protocol import Attach, Ended, Order, Refused, StandbyReport, Started, Stop, encode
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity
from vllm_magic.linux.shared_memory import Segment
from vllm_magic.release import force_kill

# A leader that ignores SIGTERM, with a child, one in its own session, and one that double-forked.
STUBBORN = """
trap '' TERM
sleep 300 &
setsid sleep 301 &
(setsid sh -c 'sleep 302; true' &)
echo up
sleep 303
true
"""


def order(tmp_path, *argv: str, **env: str) -> Order:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "t").mkdir()
    return Order(
        argv=list(argv),
        env={"PATH": os.environ["PATH"], **env},
        cwd="/",
        tmp=str(folder / "t"),
        folder=str(folder),
        log=str(folder / "log"),
        keep_log=str(tmp_path / "kept.log"),
        locks=[str(tmp_path / "lock")],
        record=record()._asdict(),
    )


def hear(pair: GuardPair, kind: type, wanted=lambda _: True, limit: float = 20.0):
    """The first message of this kind that is wanted; None at the end of all messages."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if select.select([pair], [], [], deadline - time.monotonic())[0]:
            messages = pair.receive()
            if messages is None:
                return None
            for message in messages:
                if isinstance(message, kind) and wanted(message):
                    return message
    raise AssertionError(f"no {kind.__name__} in {limit} s")


def wait_for_log(tmp_path, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in (tmp_path / "folder" / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tree(started: Started) -> set[Identity]:
    """All that lives below the outer guard, guards included."""
    table = processes.table()
    pids = processes.descendants(table, started.outer[0]) | {started.outer[0]}
    return {table[pid].identity for pid in pids if table[pid].alive}


@pytest.fixture
def stubborn(tmp_path):
    """A running guard pair with the stubborn tree: (pair, started, every process of it)."""
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", STUBBORN))
    started = hear(pair, Started)
    wait_for_log(tmp_path, "up")
    deadline = time.monotonic() + 10
    while (
        len(everyone := tree(started)) < 8
    ):  # two guards, the leader, three sleeps and a shell, and its own sleep
        assert time.monotonic() < deadline, everyone
        time.sleep(0.01)
    yield pair, started, everyone
    for identity in everyone:
        pidfd.send(identity, signal.SIGKILL)
    pair.close()


def test_a_stop_ends_everything_by_session_and_by_descent(stubborn, tmp_path):
    pair, started, everyone = stubborn
    pair.stop(grace=0.2, patience=0.2)
    ended = hear(pair, Ended)
    assert hear(pair, Ended) is None
    assert pidfd.wait_for_all(everyone, 5) == set()
    assert ended.left == []
    assert {Identity(*row[:2]) for row in ended.ended} == everyone - {
        Identity(*started.outer),
        Identity(*started.inner),
    }
    assert {row[3] for row in ended.ended} == {"SIGKILL"}
    assert not (tmp_path / "folder").exists()
    assert (tmp_path / "kept.log").read_text() == "up\n"


@pytest.mark.parametrize("victim", ["leader", "outer", "inner"])
def test_killing_one_of_them_ends_all(stubborn, victim, tmp_path):
    pair, started, everyone = stubborn
    began = time.monotonic()
    os.kill(getattr(started, victim)[0], signal.SIGKILL)
    assert pidfd.wait_for_all(everyone, 20) == set()
    assert time.monotonic() - began < 10
    assert hear(pair, Ended).left == []
    assert hear(pair, Ended) is None
    assert not (tmp_path / "folder").exists()


def test_killing_both_guards_at_once_kills_the_leader(stubborn):
    """Children that fled into their own sessions are left to the kernel's rescue (see test_deaths)."""
    pair, started, _ = stubborn
    for guard in (started.outer, started.inner):
        os.kill(guard[0], signal.SIGSTOP)
    for guard in (started.outer, started.inner):
        os.kill(guard[0], signal.SIGKILL)
    assert hear(pair, Ended) is None
    assert pidfd.wait_for_all({Identity(*started.leader)}, 20) == set()


def test_closing_the_kernels_end_releases(stubborn):
    pair, _, everyone = stubborn
    pair.close()
    assert pidfd.wait_for_all(everyone, 20) == set()


def test_sigterm_to_a_guard_releases(stubborn):
    _, started, everyone = stubborn
    os.kill(started.outer[0], signal.SIGTERM)
    assert pidfd.wait_for_all(everyone, 20) == set()


def test_a_second_stop_hurries(stubborn):
    pair, _, everyone = stubborn
    pair.stop(grace=600, patience=600)
    assert pidfd.wait_for_all(everyone, 0.5) != set()
    pair.stop(grace=600, patience=600)
    assert pidfd.wait_for_all(everyone, 20) == set()


def test_a_stop_right_behind_the_order_is_heard(tmp_path):
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", "trap '' TERM; sleep 300; true"))
    pair.stop(grace=0.1, patience=0.1)
    assert hear(pair, Ended).left == []
    pair.close()


def test_two_stops_that_come_together_hurry(stubborn):
    pair, _, everyone = stubborn
    pair._socket.sendall(encode(Stop(600, 600)) + encode(Stop(600, 600)))
    assert pidfd.wait_for_all(everyone, 20) == set()


def test_guards_sleep_while_the_server_runs(stubborn, tmp_path):
    _, started, everyone = stubborn

    def switches(pid: int) -> list[str]:
        with open(f"/proc/{pid}/status") as file:
            return [line for line in file if "ctxt_switches" in line]

    server = everyone - {Identity(*started.outer), Identity(*started.inner)}
    folder = str(tmp_path / "folder")
    by_hand.until(lambda: server <= {Identity(*one) for one in records.known(folder)}, "not all are known")
    time.sleep(0.5)
    before = switches(started.outer[0])
    time.sleep(2)
    assert switches(started.outer[0]) == before


def test_the_guards_write_down_whom_they_adopted(tmp_path):
    """Written, since whoever comes after the guards can find it in no other way; `test_deaths` has the kernel hear it."""
    flee = f"(env -i setsid {shutil.which('sleep')} 307 &); sleep 308; true"
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", flee))
    started = hear(pair, Started)
    inner, leader = Identity(*started.inner), Identity(*started.leader)

    def adopted() -> set[int]:
        return {pid for pid in processes.children(inner.pid) if processes.title(pid).endswith("sleep 307")}

    by_hand.until(adopted, "nobody is adopted")
    (daemon,) = (by_hand.identity(pid) for pid in adopted())
    try:
        folder = str(tmp_path / "folder")
        by_hand.until(lambda: list(daemon) in records.known(folder), "it is not written")
        noted = [Identity(*one) for one in records.known(folder)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in (Identity(*started.outer), inner):
                assert pidfd.send(one, number)
        assert hear(pair, Ended) is None
        outcome = force_kill.release(b"NAME=nobody", leader, records.before(folder), known=noted)
        assert daemon in {tuple(row[:2]) for row in outcome.ended}
        assert not processes.is_alive(daemon)
    finally:
        pidfd.send(daemon, signal.SIGKILL)
        pair.close()


def test_what_cannot_be_executed_is_refused(tmp_path):
    pair = GuardPair(order(tmp_path, "/nowhere/vllm"))
    refused = hear(pair, Refused)
    assert refused.errno == 2
    assert "No such file" in refused.text
    assert hear(pair, Refused) is None
    pair.close()
    assert not (tmp_path / "folder").exists()


def test_the_leaders_exit_code_is_told(tmp_path):
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", "exit 7"))
    ended = hear(pair, Ended)
    assert (ended.exit_code, ended.why, ended.left) == (7, "leader ended", [])
    pair.close()


def test_the_leader_starts_clean(tmp_path):
    """Own session, default signals (a kernel has SIGINT ignored at times), no descriptor but three, nothing of ours in its environment."""
    script = (
        "import os, signal; print(os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd')))[:4],"
        " signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGHUP) == 0,"
        " signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, signal.pthread_sigmask(0, ()), os.environ.get('MARK'))"
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pair = GuardPair(order(tmp_path, sys.executable, "-I", "-c", script, MARK="here"))
    finally:
        signal.signal(signal.SIGINT, before)
    hear(pair, Ended)
    pair.close()
    # descriptor 3 is the listing of the folder itself; Python sets SIGINT and SIGPIPE up from their defaults
    assert (tmp_path / "kept.log").read_text() == "True [0, 1, 2, 3] True True True set() here\n"


@pytest.mark.parametrize("death", ["SIGKILL", "SIGSEGV", "exit", "exec", "fork holds the socket"])
def test_the_kernels_death_releases(tmp_path, death):
    """A process in the kernel's place, which dies in different ways while its server runs."""
    program = f"""
import os, signal, sys, time
sys.path.insert(0, {os.getcwd()!r})
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.protocol import Order
o = Order(argv=["/bin/sh", "-c", {STUBBORN!r}], env={{"PATH": os.environ["PATH"]}}, cwd="/", tmp={str(tmp_path / "t")!r},
          folder={str(tmp_path / "f")!r}, log={str(tmp_path / "log")!r}, keep_log={str(tmp_path / "kept")!r}, locks=[], record={json.loads(json.dumps(record()._asdict()))!r})
pair = GuardPair(o)
started = pair.receive()[0]
while "up" not in open(o.log).read(): time.sleep(0.01)
death = {death!r}
if death == "fork holds the socket" and os.fork() == 0:
    os.closerange(0, 3); time.sleep(60); os._exit(0)
print(*started.outer, flush=True)
sys.stdin.readline()
if death == "exit": os._exit(3)
if death == "exec": os.execv("/bin/sleep", ["sleep", "60"])
os.kill(os.getpid(), signal.SIGSEGV if death == "SIGSEGV" else signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as kernel:
        outer = Identity(*map(int, kernel.stdout.readline().split()))
        table = processes.table()
        everyone = {table[pid].identity for pid in processes.descendants(table, outer.pid) | {outer.pid}}
        helper = {table[pid].identity for pid in processes.descendants(table, kernel.pid)} - everyone
        assert len(everyone) >= 6
        kernel.stdin.write("die\n")
        kernel.stdin.flush()
        assert pidfd.wait_for_all(everyone, 20) == set()
        kernel.kill()
        for identity in helper:
            pidfd.send(identity, signal.SIGKILL)


def test_a_chain_of_forks_is_caught(tmp_path):
    """Each generation forks, leaves the session and exits: a look at /proc may see none of them."""
    chain = (
        "import os, signal, time\n"
        "signal.alarm(60)\n"
        "if os.fork():\n    time.sleep(60); os._exit(0)\n"
        "end = time.monotonic() + 40\n"
        "while time.monotonic() < end:\n"
        "    if os.fork(): os._exit(0)\n"
        "    os.setsid()\n"
    )
    for attempt in range(5):
        here = tmp_path / str(attempt)
        here.mkdir()
        mark = f"MARK=chain-{os.getpid()}-{attempt}"
        pair = GuardPair(order(here, sys.executable, "-I", "-c", chain, MARK=mark.partition("=")[2]))
        hear(pair, Started)
        time.sleep(0.3)
        pair.stop(grace=0.0, patience=0.0)
        assert hear(pair, Ended).left == []
        pair.close()
        for _ in range(20):
            assert not [pid for pid in processes.table() if processes.has_environment(pid, mark.encode())]
            time.sleep(0.01)


def test_a_kernel_that_blocks_and_ignores_signals(tmp_path):
    """Both are inherited; the guards must hear of the leader's death all the same."""
    blocked = {signal.SIGCHLD, signal.SIGTERM}
    ignored = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        pair = GuardPair(order(tmp_path, "/bin/sh", "-c", "sleep 300; true"))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        signal.signal(signal.SIGCHLD, ignored)
    started = hear(pair, Started)
    os.kill(started.leader[0], signal.SIGKILL)
    assert hear(pair, Ended).why == "leader ended"
    assert hear(pair, Ended) is None
    pair.close()


def test_a_guard_that_is_stopped_when_the_kernel_dies(stubborn):
    pair, started, everyone = stubborn
    os.kill(started.inner[0], signal.SIGSTOP)
    pair._socket.close()
    assert pidfd.wait_for_all(everyone, 30) == set()


def test_only_a_guard_that_hangs_is_replaced():
    """A slow one, on a busy machine, is let finish: what it has noted would be lost with it."""
    outer = Outer.__new__(Outer)  # its judgement only; no socket, no order
    with by_hand.bystander() as inner:
        outer._inner = inner.pid
        assert not outer._hangs(0.0)
        assert outer._hangs(LONGEST)
        os.kill(inner.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, inner.pid, os.WSTOPPED)
        assert outer._hangs(0.0)


def test_the_shared_memory_that_a_killed_guard_had_noted(tmp_path):
    """Who had mapped it has ended before the other guard looks."""
    segment = Path(f"/dev/shm/psm_noted-{os.getpid()}")
    segment.touch(mode=0o600)
    try:
        stat = segment.stat()
        outer = Outer.__new__(Outer)
        outer.order = order(tmp_path, "/bin/true")
        outer.before = set()
        outer._unlink_recorded()  # no record yet
        assert segment.exists()
        noted = record(segments=[[stat.st_dev, stat.st_ino]])
        records.write(outer.order.folder, noted)
        outer.before = {Segment(stat.st_dev, stat.st_ino)}
        outer._unlink_recorded()
        assert segment.exists()
        outer.before = set()
        outer._unlink_recorded()
        assert not segment.exists()
    finally:
        segment.unlink(missing_ok=True)


# Makes one file in shared memory and writes to another one, each at a time that no clock of the start would show.
SHARER = """
import mmap, os, sys, time
held = []
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 4096)
    held.append(mmap.mmap(fd, 0))
    held[-1][0] = 1
    os.utime(fd, (int(time.time()) + (86400 if len(held) == 1 else -86400),) * 2)
print("up", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("end", ["a stop", "without the inner guard", "without both guards"])
def test_the_clock_is_set_while_the_server_runs(tmp_path, end):
    """Shared memory that it has made goes; what others had made before it stays, although it wrote there later."""
    names = [f"/dev/shm/psm_{who}-{os.getpid()}" for who in ("theirs", "ours")]
    theirs, ours = map(Path, names)
    theirs.touch(mode=0o600)
    pair = GuardPair(order(tmp_path, sys.executable, "-c", SHARER, *names))
    try:
        started = hear(pair, Started)
        guards = [Identity(*started.outer), Identity(*started.inner)]
        wait_for_log(tmp_path, "up")
        pair.note()
        folder = str(tmp_path / "folder")
        by_hand.until(lambda: records.read(folder).segments, "it is not noted")
        if end == "without both guards":
            for number in (signal.SIGSTOP, signal.SIGKILL):
                assert {pidfd.send(one, number) for one in guards} == {True}
            assert hear(pair, Ended) is None
            noted = [Segment(*one) for one in records.read(folder).segments]
            leader = Identity(*started.leader)
            force_kill.release(b"NAME=nobody", leader, records.before(folder), noted, [leader])
        elif end == "a stop":
            pair.stop(0.0, 0.0)
            assert hear(pair, Ended).left == []
        else:
            assert pidfd.send(guards[1], signal.SIGKILL)
            by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
        assert (theirs.exists(), ours.exists()) == (True, False)
    finally:
        pair.kill()
        pair.close()
        for path in (theirs, ours):
            path.unlink(missing_ok=True)


def test_a_disk_that_hangs_does_not_hold_a_release_up(stubborn, tmp_path):
    """The record cannot be written: whoever opens a FIFO for writing waits for a reader."""
    pair, started, everyone = stubborn
    os.mkfifo(tmp_path / "folder" / f"record.json.{started.inner[0]}")
    pair.hang_up()
    assert pidfd.wait_for_all(everyone, LONGEST / 2) == set()


def test_a_silent_client_who_comes_as_the_kernel_goes(tmp_path):
    """In one poll of the inner guard: the descriptor of the dead kernel is given to the client at once."""
    pair = GuardPair(order(tmp_path, "/bin/sleep", "304")._replace(keep=1.0))
    started = hear(pair, Started)
    inner, leader = Identity(*started.inner), Identity(*started.leader)
    assert pidfd.send(inner, signal.SIGSTOP)
    with control_client.connect(tmp_path / "folder"):
        pair.hang_up()
        assert pidfd.send(inner, signal.SIGCONT)
        assert pidfd.wait_for_all({leader}, LONGEST / 2) == set()
    pair.close()


# A spare as `engine/standby_child.py` is: its connection is its standard input.
SPARE = """
import os
os.write(0, b"warm\\n")
while not os.read(0, 65536).endswith(b"\\n"):
    pass
os.write(0, b"taken\\n")
os.execv("/bin/sleep", ["sleep", "305"])
"""


# It makes one file in shared memory while it waits, and writes to another one once it is a server.
SHARING_SPARE = """
import mmap, os, sys, time
def share(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 4096)
    return mmap.mmap(fd, 0)
ours = share(sys.argv[1])
os.write(0, b"warm\\n")
while not os.read(0, 65536).endswith(b"\\n"):
    pass
theirs = share(sys.argv[2])
os.write(0, b"taken\\n")
time.sleep(300)
"""


@pytest.mark.parametrize("end", ["a stop", "without the inner guard"])
def test_the_shared_memory_of_a_spare_that_becomes_a_server(tmp_path, end):
    """What others made before that is theirs, also what is younger than the spare."""
    names = [f"/dev/shm/psm_{who}-{os.getpid()}" for who in ("ours", "theirs")]
    ours, theirs = map(Path, names)
    waiting = order(tmp_path, sys.executable, "-c", SHARING_SPARE, *names)
    pair = GuardPair(waiting._replace(spare=300.0))
    try:
        hear(pair, StandbyReport, lambda said: said.warm)
        theirs.touch(mode=0o600)
        pair.order(waiting)
        started = hear(pair, Started)
        pair.note()
        folder = str(tmp_path / "folder")
        by_hand.until(lambda: len(records.read(folder).segments) == 2, "it is not noted")
        segments = {path: Segment(path.stat().st_dev, path.stat().st_ino) for path in (ours, theirs)}
        assert {segment for segment in segments.values() if segment in records.before(folder)} == {
            segments[theirs]
        }
        if end == "a stop":
            pair.stop(0.0, 0.0)
            assert hear(pair, Ended).left == []
        else:
            assert pidfd.send(Identity(*started.inner), signal.SIGKILL)
            by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
        assert (theirs.exists(), ours.exists()) == (True, False)
    finally:
        pair.kill()
        pair.close()
        for path in (theirs, ours):
            path.unlink(missing_ok=True)


def is_read(us: GuardPair | control_client.ControlClient) -> bool:
    """Whether the guard has read all that it was sent (unix(7))."""
    return struct.unpack("i", fcntl.ioctl(us._socket, termios.TIOCOUTQ, bytes(4)))[0] == 0


def test_a_spare_that_becomes_a_server_to_be_kept_as_the_kernel_dies(tmp_path):
    """And as the disk hangs on which the guard writes what it has become, so that it looks as if it hung itself."""
    waiting = order(tmp_path, sys.executable, "-c", SPARE)
    pair = GuardPair(waiting._replace(spare=300.0))
    leader = Identity(*hear(pair, StandbyReport, lambda said: said.warm).leader)
    inner = processes.read(processes.read(leader.pid).parent).identity
    pipe = tmp_path / "folder" / f"record.json.{inner.pid}"
    os.mkfifo(pipe)
    pair.order(waiting._replace(keep=600.0))
    by_hand.until(
        lambda: is_read(pair) and processes.read(inner.pid).state == "S", "the guard does not write"
    )
    pair.hang_up()
    assert pidfd.send(inner, signal.SIGSTOP)
    try:
        assert pidfd.wait_for_all({leader}, BACKSTOP + 2.0) == {leader}
    finally:
        assert pidfd.send(inner, signal.SIGCONT) == processes.is_alive(inner)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    by_hand.until((tmp_path / "folder" / "control").exists, "the guard cannot be reached")
    visit = control_client.ControlClient(tmp_path / "folder")
    visit.stop(0.0, 0.0)
    assert pidfd.wait_for_all({leader, inner}, LONGEST) == set()
    visit.close()
    os.close(reader)
    pair.close()


def test_a_stop_is_heard_although_the_kernel_ends_with_it(tmp_path, monkeypatch):
    """The server was to be kept, and then it was not."""
    with by_hand.bystander() as kernel:
        pidfd_open = os.pidfd_open
        with monkeypatch.context() as patched:
            patched.setattr(os, "pidfd_open", lambda _: pidfd_open(kernel.pid))
            pair = GuardPair(order(tmp_path, "/bin/sleep", "306")._replace(keep=600.0))
        started = hear(pair, Started)
        inner, leader = Identity(*started.inner), Identity(*started.leader)
        assert pidfd.send(inner, signal.SIGSTOP)
        pair.stop(0.0, 0.0)
    assert pidfd.send(inner, signal.SIGCONT)
    assert pidfd.wait_for_all({leader}, LONGEST) == set()
    pair.close()


@pytest.mark.parametrize("whom", ["leader", "its child"])
def test_one_that_a_debugger_has(tmp_path, whom):
    """Killed, it is a zombie that nobody but the debugger can collect; it holds nothing any more."""
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", "sleep 300 & wait"))
    leader = Identity(*hear(pair, Started).leader)
    by_hand.until(lambda: processes.children(leader.pid), "it has no child")
    (child,) = processes.children(leader.pid)
    traced = leader.pid if whom == "leader" else child
    seize = 0x4206  # PTRACE_SEIZE
    assert ctypes.CDLL(None, use_errno=True).ptrace(seize, traced, None, None) == 0, ctypes.get_errno()
    pair.stop(0.0, 0.0)
    ended = hear(pair, Ended)
    assert ended.left == []
    assert ended.seconds < KILL_LIMIT
    assert processes.read(traced).state == "Z"
    os.waitpid(traced, 0x40000000)  # __WALL
    pair.close()


def test_a_guard_that_has_no_descriptor_for_a_look(tmp_path):
    """What it looks for while the server runs can wait; the server goes on."""
    script = "read go; (setsid sleep 300 &); exec sleep 300"
    trigger = tmp_path / "trigger"
    os.mkfifo(trigger)
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", f"exec <{trigger}; {script}"))
    started = hear(pair, Started)
    inner, leader = started.inner[0], Identity(*started.leader)
    used = {int(name) for name in os.listdir(f"/proc/{inner}/fd")}
    free = min(set(range(1000)) - used)
    assert free > 8, used  # poll(2) wants as many as it is given
    before = resource.prlimit(inner, resource.RLIMIT_NOFILE)
    resource.prlimit(inner, resource.RLIMIT_NOFILE, (free, before[1]))
    trigger.write_text("go\n")
    by_hand.until(lambda: len(processes.children(inner)) == 2, "nobody is adopted")
    assert pidfd.wait_for_all({leader}, KIN_LOOK * 2) == {leader}
    resource.prlimit(inner, resource.RLIMIT_NOFILE, before)
    pair.stop(0.0, 0.0)
    assert hear(pair, Ended).left == []
    pair.close()


@pytest.fixture
def small_buffer(monkeypatch) -> None:
    """The guards' socket takes a few kilobytes that nobody has read, not two hundred."""
    whole = socket.socketpair

    def socketpair(*kind: int) -> tuple[socket.socket, socket.socket]:
        ours, theirs = whole(*kind)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return ours, theirs

    monkeypatch.setattr(socket, "socketpair", socketpair)


CROWD = 300  # processes; to name them all takes more than the small buffer


@pytest.fixture
def crowded(tmp_path, small_buffer):
    """The guards of a server with many processes, and its leader; the kernel has read nothing yet."""
    script = f"for i in $(seq {CROWD}); do sleep 300 & done; echo up; wait"
    pair = GuardPair(order(tmp_path, "/bin/sh", "-c", script))
    by_hand.until((tmp_path / "folder" / "log").exists, "it has no log")
    wait_for_log(tmp_path, "up")
    pair.note()
    by_hand.until(lambda: len(records.known(str(tmp_path / "folder"))) > CROWD, "the guards know nobody")
    yield pair, Identity(*records.read(str(tmp_path / "folder")).leader)
    pair.kill()
    pair.close()


@pytest.mark.parametrize("victim", ["leader", "inner"])
def test_a_kernel_that_reads_late_hears_how_it_ended(crowded, tmp_path, victim):
    """It was stopped for minutes, or one cell kept it busy: what the guards had begun to say is not cut off."""
    pair, leader = crowded
    inner = Identity(*records.read(str(tmp_path / "folder")).inner)
    assert pidfd.send({"leader": leader, "inner": inner}[victim], signal.SIGKILL)
    by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
    ended = hear(pair, Ended)
    assert ended is not None
    assert len(ended.ended) >= CROWD
    assert ended.left == []
    assert hear(pair, Ended) is None


def test_guards_wait_for_no_kernel_that_has_ended(crowded, tmp_path):
    pair, leader = crowded
    inner = Identity(*records.read(str(tmp_path / "folder")).inner)
    assert pidfd.send(leader, signal.SIGKILL)
    by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
    pair.hang_up()
    assert pidfd.wait_for_all({inner}, 20) == set()


def test_a_client_that_reads_late_hears_how_it_ended(tmp_path):
    pair = GuardPair(order(tmp_path, "/bin/sleep", "300"))
    hear(pair, Started)
    visit = control_client.ControlClient(tmp_path / "folder")
    for _ in range(400):  # each is refused; a message takes more of the socket's buffer than its length
        visit._socket.sendall(encode(Attach({"none": ""})))
    by_hand.until(lambda: is_read(visit), "the guard does not listen")
    pair.stop(0.0, 0.0)
    by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
    said = []
    while (messages := visit.receive(20.0)) is not None:
        said += messages
    assert isinstance(said[-1], Ended)
    assert said[-1].left == []
    visit.close()
    assert hear(pair, Ended).left == []
    pair.close()
