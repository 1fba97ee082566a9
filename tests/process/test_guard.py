"""The guard pair without a kernel of Jupyter: its releases, and the death of a guard or the leader."""

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
from vllm_magic.guard.inner import CHILD_SCAN_INTERVAL
from vllm_magic.guard.ladder import KILL_LIMIT
from vllm_magic.guard.outer import HANG_CHECK_DELAY, RELEASE_LIMIT, Outer
from vllm_magic.guard.protocol import (
    Attach,
    Ended,
    LaunchRequest,
    Refused,
    StandbyReport,
    Started,
    Stop,
    Stopping,
    encode,
)
from vllm_magic.ledger import Folder
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


def launch_request(tmp_path, *argv: str, **env: str) -> LaunchRequest:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "t").mkdir()
    return LaunchRequest(
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


def paths_without_mark(tmp_path) -> Folder:
    """The paths of the server of `launch_request`. No process has the mark of this folder."""
    folder = tmp_path / "folder"
    return Folder(f"{os.getpid():08x}", folder, folder / "t", folder / "log", tmp_path / "kept.log")


def receive(pair: GuardPair, kind: type, wanted=lambda _: True, limit: float = 20.0):
    """Return the first wanted message of this kind; None at the end of the connection."""
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
    """Return the living processes below the outer guard, with the guards."""
    table = processes.table()
    pids = processes.descendants(table, started.outer[0]) | {started.outer[0]}
    return {table[pid].identity for pid in pids if table[pid].alive}


@pytest.fixture
def engine(tmp_path):
    """A running guard pair with an engine that ignores SIGTERM, so that a stop waits for its grace: (pair, started)."""
    command = "trap '' TERM; echo up; sleep 300; true"
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", command, "VLLM::EngineCore"))
    started = receive(pair, Started)
    wait_for_log(tmp_path, "up")
    yield pair, started
    for guard in (started.outer, started.inner):
        pidfd.send(Identity(*guard), signal.SIGKILL)
    pair.close()


@pytest.fixture
def stubborn(tmp_path):
    """A running guard pair with the stubborn tree: (pair, started, every process of it)."""
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", STUBBORN))
    started = receive(pair, Started)
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
    ended = receive(pair, Ended)
    assert receive(pair, Ended) is None
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
def test_killing_a_guard_or_the_leader_ends_all(stubborn, victim, tmp_path):
    pair, started, everyone = stubborn
    began = time.monotonic()
    os.kill(getattr(started, victim)[0], signal.SIGKILL)
    assert pidfd.wait_for_all(everyone, 20) == set()
    assert time.monotonic() - began < 10
    assert receive(pair, Ended).left == []
    assert receive(pair, Ended) is None
    assert not (tmp_path / "folder").exists()


def test_killing_both_guards_at_once_kills_the_leader(stubborn):
    """Children that fled into their own sessions are left to the kernel's rescue (see test_deaths)."""
    pair, started, _ = stubborn
    for guard in (started.outer, started.inner):
        os.kill(guard[0], signal.SIGSTOP)
    for guard in (started.outer, started.inner):
        os.kill(guard[0], signal.SIGKILL)
    assert receive(pair, Ended) is None
    assert pidfd.wait_for_all({Identity(*started.leader)}, 20) == set()


def test_closing_the_kernels_end_releases(stubborn):
    pair, _, everyone = stubborn
    pair.close()
    assert pidfd.wait_for_all(everyone, 20) == set()


def test_sigterm_to_a_guard_releases(stubborn):
    _, started, everyone = stubborn
    os.kill(started.outer[0], signal.SIGTERM)
    assert pidfd.wait_for_all(everyone, 20) == set()


@pytest.mark.parametrize("grace", [0.0, 1.0])
def test_a_later_stop_with_less_grace_shortens_the_release(engine, grace):
    pair, _ = engine
    pair.stop(grace=600, patience=600)
    assert receive(pair, Stopping)
    pair.stop(grace=grace, patience=grace)
    assert receive(pair, Ended).seconds >= grace


def test_a_later_stop_with_more_grace_changes_nothing(engine):
    pair, _ = engine
    pair.stop(grace=2.0, patience=2.0)
    assert receive(pair, Stopping)
    pair.stop(grace=600, patience=600)
    assert receive(pair, Ended).seconds >= 2.0


@pytest.mark.parametrize("whom", ["inner", "outer"])
def test_sigterm_to_a_guard_during_a_release_ends_the_grace_period(engine, whom):
    pair, started = engine
    pair.stop(grace=600, patience=600)
    assert receive(pair, Stopping)
    os.kill(getattr(started, whom)[0], signal.SIGTERM)
    assert receive(pair, Ended).by == "inner"  # the outer one has not taken it for hung


def test_a_stop_right_behind_the_launch_request_is_received(tmp_path):
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", "trap '' TERM; sleep 300; true"))
    pair.stop(grace=0.1, patience=0.1)
    assert receive(pair, Ended).left == []
    pair.close()


def test_of_two_stops_at_once_the_shorter_one_counts(engine):
    pair, _ = engine
    pair._socket.sendall(encode(Stop(600, 600)) + encode(Stop(1, 1)))
    assert receive(pair, Ended).seconds >= 1.0


def test_guards_sleep_while_the_server_runs(stubborn, tmp_path):
    _, started, everyone = stubborn

    def switches(pid: int) -> list[str]:
        with open(f"/proc/{pid}/status") as file:
            return [line for line in file if "ctxt_switches" in line]

    server = everyone - {Identity(*started.outer), Identity(*started.inner)}
    folder = str(tmp_path / "folder")
    by_hand.until(
        lambda: server <= {Identity(*one) for one in records.read_known_processes(folder)},
        "not all are known",
    )
    time.sleep(0.5)
    before = switches(started.outer[0])
    time.sleep(2)
    assert switches(started.outer[0]) == before


def test_the_guards_record_adopted_processes(tmp_path):
    """In the folder, for a kernel that comes after the guards. `test_deaths` checks the message to the kernel."""
    flee = f"(env -i setsid {shutil.which('sleep')} 307 &); sleep 308; true"
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", flee))
    started = receive(pair, Started)
    inner, leader = Identity(*started.inner), Identity(*started.leader)

    def adopted() -> set[int]:
        return {pid for pid in processes.children(inner.pid) if processes.title(pid).endswith("sleep 307")}

    by_hand.until(adopted, "nobody is adopted")
    (daemon,) = (by_hand.identity(pid) for pid in adopted())
    try:
        folder = str(tmp_path / "folder")
        by_hand.until(lambda: list(daemon) in records.read_known_processes(folder), "it is not written")
        noted = [Identity(*one) for one in records.read_known_processes(folder)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in (Identity(*started.outer), inner):
                assert pidfd.send(one, number)
        assert receive(pair, Ended) is None
        outcome = force_kill.kill_server(paths_without_mark(tmp_path), leader, noted)
        assert daemon in {tuple(row[:2]) for row in outcome.ended}
        assert not processes.is_alive(daemon)
    finally:
        pidfd.send(daemon, signal.SIGKILL)
        pair.close()


def test_a_kept_server_may_have_new_processes(tmp_path):
    """Its guards report them to no kernel, and go on."""
    trigger = tmp_path / "trigger"
    os.mkfifo(trigger)
    command = f"read go <{trigger}; (setsid sleep 309 &); exec sleep 310"
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", command)._replace(keep=600.0))
    inner = Identity(*receive(pair, Started).inner)
    folder = str(tmp_path / "folder")
    by_hand.until(lambda: records.read_known_processes(folder), "the first scan is not over")
    pair.disconnect()
    by_hand.until(lambda: records.read(folder).phase == records.Phase.KEPT, "it is not kept")
    trigger.write_text("go\n")
    by_hand.until(lambda: len(records.read_known_processes(folder)) == 2, "they are not noted")
    assert processes.is_alive(inner)
    visit = control_client.ControlClient(tmp_path / "folder")
    visit.stop(0.0, 0.0)
    while messages := visit.receive(20.0):
        ended = [message for message in messages if isinstance(message, Ended)]
    assert ended[0].left == []
    visit.close()
    pair.close()


def test_a_command_that_cannot_be_executed_is_refused(tmp_path):
    pair = GuardPair(launch_request(tmp_path, "/nowhere/vllm"))
    refused = receive(pair, Refused)
    assert refused.errno == 2
    assert "No such file" in refused.text
    assert receive(pair, Refused) is None
    pair.close()
    assert not (tmp_path / "folder").exists()


def test_the_leaders_exit_code_is_reported(tmp_path):
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", "exit 7"))
    ended = receive(pair, Ended)
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
        pair = GuardPair(launch_request(tmp_path, sys.executable, "-I", "-c", script, MARK="here"))
    finally:
        signal.signal(signal.SIGINT, before)
    receive(pair, Ended)
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
from vllm_magic.guard.protocol import LaunchRequest
o = LaunchRequest(argv=["/bin/sh", "-c", {STUBBORN!r}], env={{"PATH": os.environ["PATH"]}}, cwd="/", tmp={str(tmp_path / "t")!r},
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
        pair = GuardPair(launch_request(here, sys.executable, "-I", "-c", chain, MARK=mark.partition("=")[2]))
        receive(pair, Started)
        time.sleep(0.3)
        pair.stop(grace=0.0, patience=0.0)
        assert receive(pair, Ended).left == []
        pair.close()
        for _ in range(20):
            assert not [pid for pid in processes.table() if processes.has_environment(pid, mark.encode())]
            time.sleep(0.01)


def test_a_kernel_that_blocks_and_ignores_signals(tmp_path):
    """A child inherits both. The guards must notice the leader's death all the same."""
    blocked = {signal.SIGCHLD, signal.SIGTERM}
    ignored = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", "sleep 300; true"))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        signal.signal(signal.SIGCHLD, ignored)
    started = receive(pair, Started)
    os.kill(started.leader[0], signal.SIGKILL)
    assert receive(pair, Ended).why == "leader ended"
    assert receive(pair, Ended) is None
    pair.close()


def test_a_guard_that_is_stopped_when_the_kernel_dies(stubborn):
    pair, started, everyone = stubborn
    os.kill(started.inner[0], signal.SIGSTOP)
    pair._socket.close()
    assert pidfd.wait_for_all(everyone, 30) == set()


def test_a_guard_that_is_stopped_during_a_release_when_the_kernel_dies(engine):
    """The end of the kernel ends the grace period, so the outer guard does not wait for that either."""
    pair, started = engine
    pair.stop(grace=600, patience=600)
    assert receive(pair, Stopping)
    os.kill(started.inner[0], signal.SIGSTOP)
    pair._socket.close()
    assert pidfd.wait_for_all({Identity(*started.leader)}, 60) == set()


def test_only_a_guard_that_hangs_is_replaced():
    """A slow guard on a busy machine may finish: its list of shared memory would be lost with it."""
    outer = Outer.__new__(Outer)  # only its judgement: no socket and no request
    with by_hand.bystander() as inner:
        outer._inner = inner.pid
        assert not outer._hangs(0.0)
        assert outer._hangs(RELEASE_LIMIT)
        os.kill(inner.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, inner.pid, os.WSTOPPED)
        assert outer._hangs(0.0)


def test_the_outer_guard_removes_the_shared_memory_in_the_record(tmp_path):
    """The process that had mapped it ended before the outer guard scans."""
    segment = Path(f"/dev/shm/psm_noted-{os.getpid()}")
    segment.touch(mode=0o600)
    try:
        stat = segment.stat()
        outer = Outer.__new__(Outer)
        outer.request = launch_request(tmp_path, "/bin/true")
        outer.segments, outer.before = set(), set()
        outer._unlink_recorded()  # no record yet
        assert segment.exists()
        noted = record(segments=[[stat.st_dev, stat.st_ino]])
        records.write(outer.request.folder, noted)
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
    """The server's shared memory is removed. Older shared memory stays, although the server wrote to it later."""
    names = [f"/dev/shm/psm_{who}-{os.getpid()}" for who in ("theirs", "ours")]
    theirs, ours = map(Path, names)
    theirs.touch(mode=0o600)
    pair = GuardPair(launch_request(tmp_path, sys.executable, "-c", SHARER, *names))
    try:
        started = receive(pair, Started)
        guards = [Identity(*started.outer), Identity(*started.inner)]
        wait_for_log(tmp_path, "up")
        pair.report_ready()
        folder = str(tmp_path / "folder")
        by_hand.until(lambda: records.read(folder).segments, "it is not noted")
        if end == "without both guards":
            for number in (signal.SIGSTOP, signal.SIGKILL):
                assert {pidfd.send(one, number) for one in guards} == {True}
            assert receive(pair, Ended) is None
            leader = Identity(*started.leader)
            force_kill.kill_server(paths_without_mark(tmp_path), leader, [leader])
        elif end == "a stop":
            pair.stop(0.0, 0.0)
            assert receive(pair, Ended).left == []
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
    """The record cannot be written: opening a FIFO for writing waits for a reader."""
    pair, started, everyone = stubborn
    os.mkfifo(tmp_path / "folder" / f"record.json.{started.inner[0]}")
    pair.disconnect()
    assert pidfd.wait_for_all(everyone, RELEASE_LIMIT / 2) == set()


def test_a_silent_client_that_connects_when_the_kernel_ends(tmp_path):
    """In one poll of the inner guard: the descriptor of the dead kernel is given to the client at once."""
    pair = GuardPair(launch_request(tmp_path, "/bin/sleep", "304")._replace(keep=1.0))
    started = receive(pair, Started)
    inner, leader = Identity(*started.inner), Identity(*started.leader)
    assert pidfd.send(inner, signal.SIGSTOP)
    with control_client.connect(tmp_path / "folder"):
        pair.disconnect()
        assert pidfd.send(inner, signal.SIGCONT)
        assert pidfd.wait_for_all({leader}, RELEASE_LIMIT / 2) == set()
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


LATE = "without the inner guard, whose messages the outer one has not read"


@pytest.mark.parametrize("end", ["a stop", "without the inner guard", LATE])
def test_the_shared_memory_of_a_spare_that_becomes_a_server(tmp_path, end):
    """Shared memory that existed before the launch request stays, also if it is younger than the standby."""
    names = [f"/dev/shm/psm_{who}-{os.getpid()}" for who in ("ours", "theirs")]
    ours, theirs = map(Path, names)
    waiting = launch_request(tmp_path, sys.executable, "-c", SHARING_SPARE, *names)
    pair = GuardPair(waiting._replace(standby_limit=300.0))
    try:
        receive(pair, StandbyReport, lambda said: said.warm)
        theirs.touch(mode=0o600)
        outer = Identity(*records.read(str(tmp_path / "folder")).outer)
        if end == LATE:
            # So the launch request is the first message that the outer guard reads afterwards.
            by_hand.until(
                (tmp_path / "folder/known.json").exists, "the outer guard has not read the known processes"
            )
            assert pidfd.send(outer, signal.SIGSTOP)
        pair.launch(waiting)
        started = receive(pair, Started)
        pair.report_ready()
        folder = str(tmp_path / "folder")
        by_hand.until(lambda: len(records.read(folder).segments) == 2, "it is not noted")
        segments = {path: Segment(path.stat().st_dev, path.stat().st_ino) for path in (ours, theirs)}
        assert {
            segment for segment in segments.values() if segment in records.read_existing_segments(folder)
        } == {segments[theirs]}
        if end == "a stop":
            pair.stop(0.0, 0.0)
            assert receive(pair, Ended).left == []
        else:
            assert pidfd.send(Identity(*started.inner), signal.SIGKILL)
            pidfd.send(outer, signal.SIGCONT)
            by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
        assert (theirs.exists(), ours.exists()) == (True, False)
    finally:
        pair.kill()
        pair.close()
        for path in (theirs, ours):
            path.unlink(missing_ok=True)


def is_read(us: GuardPair | control_client.ControlClient) -> bool:
    """Whether the guard has read all messages (unix(7))."""
    return struct.unpack("i", fcntl.ioctl(us._socket, termios.TIOCOUTQ, bytes(4)))[0] == 0


def test_a_spare_that_becomes_a_server_to_be_kept_as_the_kernel_dies(tmp_path):
    """The disk of the record hangs too, so that the inner guard seems to hang."""
    waiting = launch_request(tmp_path, sys.executable, "-c", SPARE)
    pair = GuardPair(waiting._replace(standby_limit=300.0))
    leader = Identity(*receive(pair, StandbyReport, lambda said: said.warm).leader)
    inner = processes.read(processes.read(leader.pid).parent).identity
    pipe = tmp_path / "folder" / f"record.json.{inner.pid}"
    os.mkfifo(pipe)
    pair.launch(waiting._replace(keep=600.0))
    by_hand.until(
        lambda: is_read(pair) and processes.read(inner.pid).state == "S", "the guard does not write"
    )
    pair.disconnect()
    assert pidfd.send(inner, signal.SIGSTOP)
    try:
        assert pidfd.wait_for_all({leader}, HANG_CHECK_DELAY + 2.0) == {leader}
    finally:
        assert pidfd.send(inner, signal.SIGCONT) == processes.is_alive(inner)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    by_hand.until((tmp_path / "folder" / "control").exists, "the guard cannot be reached")
    visit = control_client.ControlClient(tmp_path / "folder")
    visit.stop(0.0, 0.0)
    assert pidfd.wait_for_all({leader, inner}, RELEASE_LIMIT) == set()
    visit.close()
    os.close(reader)
    pair.close()


def test_a_stop_of_a_kernel_that_ends_at_once_is_handled(tmp_path, monkeypatch):
    """The server was to be kept, and then it was not."""
    with by_hand.bystander() as kernel:
        pidfd_open = os.pidfd_open
        with monkeypatch.context() as patched:
            patched.setattr(os, "pidfd_open", lambda _: pidfd_open(kernel.pid))
            pair = GuardPair(launch_request(tmp_path, "/bin/sleep", "306")._replace(keep=600.0))
        started = receive(pair, Started)
        inner, leader = Identity(*started.inner), Identity(*started.leader)
        assert pidfd.send(inner, signal.SIGSTOP)
        pair.stop(0.0, 0.0)
    assert pidfd.send(inner, signal.SIGCONT)
    assert pidfd.wait_for_all({leader}, RELEASE_LIMIT) == set()
    pair.close()


@pytest.mark.parametrize("whom", ["leader", "its child"])
def test_a_process_that_a_debugger_traces(tmp_path, whom):
    """After a kill it is a zombie that only the debugger can reap. It holds no memory any more."""
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", "sleep 300 & wait"))
    leader = Identity(*receive(pair, Started).leader)
    by_hand.until(lambda: processes.children(leader.pid), "it has no child")
    (child,) = processes.children(leader.pid)
    traced = leader.pid if whom == "leader" else child
    seize = 0x4206  # PTRACE_SEIZE
    assert ctypes.CDLL(None, use_errno=True).ptrace(seize, traced, None, None) == 0, ctypes.get_errno()
    pair.stop(0.0, 0.0)
    ended = receive(pair, Ended)
    assert ended.left == []
    assert ended.seconds < KILL_LIMIT
    assert processes.read(traced).state == "Z"
    os.waitpid(traced, 0x40000000)  # __WALL
    pair.close()


def test_a_guard_without_a_free_descriptor_for_a_scan(tmp_path):
    """The scan can wait, and the server goes on."""
    script = "read go; (setsid sleep 300 &); exec sleep 300"
    trigger = tmp_path / "trigger"
    os.mkfifo(trigger)
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", f"exec <{trigger}; {script}"))
    started = receive(pair, Started)
    inner, leader = started.inner[0], Identity(*started.leader)
    used = {int(name) for name in os.listdir(f"/proc/{inner}/fd")}
    free = min(set(range(1000)) - used)
    assert free > 8, used  # poll(2) wants as many as it is given
    before = resource.prlimit(inner, resource.RLIMIT_NOFILE)
    resource.prlimit(inner, resource.RLIMIT_NOFILE, (free, before[1]))
    trigger.write_text("go\n")
    by_hand.until(lambda: len(processes.children(inner)) == 2, "nobody is adopted")
    assert pidfd.wait_for_all({leader}, CHILD_SCAN_INTERVAL * 2) == {leader}
    resource.prlimit(inner, resource.RLIMIT_NOFILE, before)
    pair.stop(0.0, 0.0)
    assert receive(pair, Ended).left == []
    pair.close()


def test_a_guard_without_a_free_descriptor_for_the_release(tmp_path):
    """It tries again until one is free: a process that cannot be read is not gone."""
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", "setsid sleep 300 & exec sleep 300"))
    started = receive(pair, Started)
    inner = started.inner[0]
    by_hand.until(lambda: len(processes.descendants(processes.table(), inner)) == 2, "the server forks")
    members = {processes.read(pid).identity for pid in processes.descendants(processes.table(), inner)}
    used = {int(name) for name in os.listdir(f"/proc/{inner}/fd")}
    before = resource.prlimit(inner, resource.RLIMIT_NOFILE)
    resource.prlimit(inner, resource.RLIMIT_NOFILE, (min(set(range(1000)) - used), before[1]))
    pair.stop(0.0, 0.0)
    receive(pair, Stopping)
    assert pidfd.wait_for_all(members, 1.0) == members
    resource.prlimit(inner, resource.RLIMIT_NOFILE, before)
    ended = receive(pair, Ended)
    assert (ended.by, ended.left) == ("inner", [])
    assert {tuple(row[:2]) for row in ended.ended} == members
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
    pair = GuardPair(launch_request(tmp_path, "/bin/sh", "-c", script))
    by_hand.until((tmp_path / "folder" / "log").exists, "it has no log")
    wait_for_log(tmp_path, "up")
    pair.report_ready()
    by_hand.until(
        lambda: len(records.read_known_processes(str(tmp_path / "folder"))) > CROWD, "the guards know nobody"
    )
    yield pair, Identity(*records.read(str(tmp_path / "folder")).leader)
    pair.kill()
    pair.close()


@pytest.mark.parametrize("victim", ["leader", "inner"])
def test_a_kernel_that_reads_late_gets_the_report(crowded, tmp_path, victim):
    """A kernel may be stopped or busy for minutes. It gets whole messages all the same."""
    pair, leader = crowded
    inner = Identity(*records.read(str(tmp_path / "folder")).inner)
    assert pidfd.send({"leader": leader, "inner": inner}[victim], signal.SIGKILL)
    by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
    ended = receive(pair, Ended)
    assert ended is not None
    assert len(ended.ended) >= CROWD
    assert ended.left == []
    assert receive(pair, Ended) is None


def test_guards_wait_for_no_kernel_that_has_ended(crowded, tmp_path):
    pair, leader = crowded
    inner = Identity(*records.read(str(tmp_path / "folder")).inner)
    assert pidfd.send(leader, signal.SIGKILL)
    by_hand.until(lambda: not (tmp_path / "folder").exists(), "nobody releases it")
    pair.disconnect()
    assert pidfd.wait_for_all({inner}, 20) == set()


def test_a_client_that_reads_late_gets_the_report(tmp_path):
    pair = GuardPair(launch_request(tmp_path, "/bin/sleep", "300"))
    receive(pair, Started)
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
    assert receive(pair, Ended).left == []
    pair.close()
