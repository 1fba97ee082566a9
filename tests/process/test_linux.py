"""Real processes, shared memory and sockets, also unusual ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import shared_memory as standard
from pathlib import Path

import pytest

from vllm_magic.linux import details, memory, pidfd, processes, shared_memory, sock_diag, sockets
from vllm_magic.linux.processes import Identity

SHM = Path("/dev/shm")
NOTHING: frozenset[shared_memory.Segment] = frozenset()  # was there before the server
ZOMBIE_LEADER = """
import ctypes, os, threading, time
def live_on():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][0] != "Z":
        time.sleep(0.01)
    print("zombie", flush=True)
    time.sleep(600)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@contextlib.contextmanager
def running(script: str, *args: str, **kwargs):
    """Run a script until the end of the block; yield the process after it has printed a line, which is its `line`."""
    with subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        **kwargs,
    ) as child:
        assert child.stdout
        try:
            child.line = child.stdout.readline().strip()  # type: ignore[attr-defined]
            yield child
        finally:
            child.kill()


def identity(pid: int) -> Identity:
    process = processes.read(pid)
    assert process is not None
    return process.identity


class TestProcesses:
    def test_of_a_long_command_line_the_beginning_is_read(self):
        script = "print(flush=True); import sys; sys.stdin.read()"
        with running(script, *["x" * 100_000] * 15) as child:
            assert details.arguments(child.pid)[:3] == [sys.executable, "-c", script]
            assert sum(map(len, details.arguments(child.pid))) <= details.MOST_ARGUMENTS

    @pytest.mark.parametrize(
        "name", [") (", "a) R 1 1 1", "((", "new\nline", " ", "", "VLLM::EngineCor", "模型模型模"]
    )
    def test_a_name_may_hold_anything(self, name):
        script = (
            "import ctypes, sys, time\n"
            "ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)\n"  # PR_SET_NAME
            "print('ready', flush=True)\n"
            "time.sleep(600)"
        )
        with running(script, name) as child:
            process = processes.read(child.pid)
            assert process is not None
            assert process.name == name
            assert process.parent == os.getpid()
            assert process.session == os.getsid(0)
            assert process.threads == 1
            assert process.alive
            assert processes.table()[child.pid].identity == process.identity

    def test_the_start_time_is_the_kernels(self):
        import psutil

        me = processes.read(os.getpid())
        assert me is not None
        since_boot = me.identity.start / os.sysconf("SC_CLK_TCK")
        assert psutil.boot_time() + since_boot == pytest.approx(psutil.Process().create_time(), abs=2)

    def test_nobody(self):
        with subprocess.Popen(["true"]) as child:
            child.wait()
        assert processes.read(child.pid) is None
        assert processes.title(child.pid) == ""
        assert processes.open_files(child.pid) == {}
        assert not processes.has_environment(child.pid, b"A=1")
        assert not processes.is_alive(Identity(child.pid, 1))

    def test_a_pid_with_another_start_time_is_another_process(self):
        me = identity(os.getpid())
        assert processes.is_alive(me)
        assert not processes.is_alive(Identity(me.pid, me.start + 1))

    def test_a_pid_that_is_now_the_number_of_a_thread(self):
        over = threading.Event()
        thread = threading.Thread(target=over.wait)
        thread.start()
        try:
            before = Identity(thread.native_id, 1)
            assert not pidfd.send(before, signal.SIGKILL)
            assert not pidfd.wait_for_any([before], 0.0)
            assert processes.hidden(thread.native_id) is None
        finally:
            over.set()
            thread.join()

    def test_a_zombie_is_dead(self):
        with subprocess.Popen(["true"], stdin=subprocess.PIPE) as child:
            who = identity(child.pid)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            zombie = processes.read(child.pid)
            assert zombie is not None
            assert zombie.state == "Z"
            assert not zombie.alive
            assert not processes.is_alive(who)
            assert child.pid in processes.descendants(processes.table(), os.getpid())

    def test_a_zombie_whose_threads_live_is_alive(self):
        with running(ZOMBIE_LEADER, env={**os.environ, "MARK": "1"}) as child:
            who = identity(child.pid)
            process = processes.read(child.pid)
            assert process is not None
            assert process.state == "Z"
            assert process.alive
            assert processes.is_alive(who)
            # Its environment and its files are those of its threads.
            assert processes.has_environment(child.pid, b"MARK=1")
            assert processes.open_files(child.pid)
            child.kill()
            assert pidfd.wait_for_all([who], 30) == set()
            assert not processes.is_alive(who)

    def test_sessions_and_descent(self):
        script = (
            "import os, subprocess, sys, time\n"
            "inner = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
            "same = subprocess.Popen(inner)\n"
            "fled = subprocess.Popen(inner, start_new_session=True)\n"
            "print(same.pid, fled.pid, flush=True)\n"
            "time.sleep(600)"
        )
        with running(script, start_new_session=True) as child:
            same, fled = map(int, child.line.split())
            try:
                table = processes.table()
                assert processes.session_members(table, child.pid) == {child.pid, same}
                assert processes.descendants(table, child.pid) == {same, fled}
                assert child.pid in processes.descendants(table, os.getpid())
                assert processes.descendants(table, child.pid, same) == {same, fled}
                assert processes.descendants(table, os.getpid(), child.pid) >= {child.pid, same, fled}
                assert processes.descendants(table) == set()
            finally:
                for pid in (same, fled):
                    os.kill(pid, signal.SIGKILL)

    def test_a_table_that_was_read_while_a_pid_changed_hands_has_no_end(self):
        def process(pid: int, parent: int) -> processes.Process:
            return processes.Process(Identity(pid, 1), "x", "S", parent, 1, 1, 1)

        ring = {2: process(2, 3), 3: process(3, 2), 4: process(4, 3)}
        assert processes.descendants(ring, 2) == {2, 3, 4}
        assert processes.descendants(ring, 4, 3) == {2, 3, 4}

    def test_title_and_environment(self):
        script = "print('ready', flush=True); import time; time.sleep(600)"
        with running(
            script, "two words", "ü", env={**os.environ, "A": "1", "AB": "x=y", "EMPTY": ""}
        ) as child:
            assert processes.title(child.pid).endswith(" two words ü")
            for entry, there in {
                b"A=1": True,
                b"AB=x=y": True,
                b"EMPTY=": True,
                b"A=": False,
                b"B=x=y": False,
            }.items():
                assert processes.has_environment(child.pid, entry) is there

    def test_a_title_that_a_process_gave_itself(self):
        script = "import setproctitle, time; setproctitle.setproctitle('VLLM::Worker'); print(flush=True); time.sleep(600)"
        with running(script, env={**os.environ, "LONG": 4000 * "x"}) as child:
            assert processes.title(child.pid) == "VLLM::Worker"

    def test_open_files(self, tmp_path):
        with (tmp_path / "held").open("w") as file, socket.create_server(("127.0.0.1", 0)) as listener:
            held = processes.open_files(os.getpid())
            fds = f"/proc/{os.getpid()}/fd"
            assert held[f"{fds}/{file.fileno()}"] == str(tmp_path / "held")
            assert held[f"{fds}/{listener.fileno()}"] == f"socket:[{os.fstat(listener.fileno()).st_ino}]"

    def test_a_kernel_thread(self):
        thread = processes.read(2)  # kthreadd, where this /proc shows it
        if thread is None or thread.name != "kthreadd":
            pytest.skip("no kernel threads to be seen here")
        assert processes.title(2) == ""
        assert thread.alive


def names_of(segments) -> set[str]:
    """The names in /dev/shm of these segments."""
    found = set()
    for path in SHM.iterdir():
        with contextlib.suppress(FileNotFoundError):  # of a test that runs at the same time
            status = path.lstat()
            if shared_memory.Segment(status.st_dev, status.st_ino) in segments:
                found.add(path.name)
    return found


# As multiprocessing leaves it after a SIGKILL: a block, and the semaphore of a lock.
HOLDER = """
import multiprocessing, sys, time
from multiprocessing import resource_tracker, shared_memory
resource_tracker.ensure_running = lambda: None  # or it would clean up after the kill
resource_tracker.register = resource_tracker.unregister = lambda *_: None
block = shared_memory.SharedMemory(create=True, size=4096)
lock = multiprocessing.get_context("spawn").Lock()
print(block.name, lock._semlock.name, flush=True)
time.sleep(600)
"""
MAPPER = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
mapped = mmap.mmap(fd, 0)
os.close(fd)
print("ready", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def holding():
    """Run a process that maps a block and a semaphore; remove both at the end."""
    with running(HOLDER) as child:
        block, lock = child.line.split()
        names = {block.lstrip("/"), f"sem.{lock.lstrip('/')}"}
        try:
            yield child, names
        finally:
            for name in names:
                (SHM / name).unlink(missing_ok=True)


@pytest.fixture(params=["the kernel tells", "it does not"])
def kernel(request, monkeypatch) -> None:
    """Whether the kernel shows that no process maps a segment. If not, the maps of all processes are read."""
    if request.param == "it does not":
        monkeypatch.setattr(shared_memory, "_is_free", lambda _: False)


@pytest.mark.usefixtures("kernel")
class TestSharedMemory:
    def test_what_a_killed_process_leaves_is_removed(self):
        with holding() as (child, names):
            segments = shared_memory.mapped_by([child.pid])
            assert names_of(segments) == names
            assert shared_memory.unlink_unmapped(segments, NOTHING) == []
            child.kill()
            child.wait()
            assert names_of(segments) == names  # this is why it has to be done
            assert shared_memory.unlink_unmapped(segments, NOTHING) == sorted(
                str(SHM / name) for name in names
            )
            assert names_of(segments) == set()
            assert shared_memory.unlink_unmapped(segments, NOTHING) == []

    @pytest.mark.parametrize("hours", [-24, 0, 24])
    def test_older_segments_stay(self, hours):
        """People keep models in /dev/shm, and vLLM maps them. File times are no proof, since the clock may be set."""
        with holding() as (child, names):
            before, segments = shared_memory.existing(), shared_memory.mapped_by([child.pid])
            for name in names:
                os.utime(SHM / name, (time.time() + 3600 * hours,) * 2)
            child.kill()
            child.wait()
            assert shared_memory.unlink_unmapped(segments, before) == []
            assert shared_memory.unlink_unmapped(segments, None) == []
            assert names_of(segments) == names
            assert len(shared_memory.unlink_unmapped(segments, before - segments)) == 2

    def test_older_segments_in_folders_stay(self):
        folder = SHM / f"vllm_test-{os.getpid()}"
        path = SHM / f"psm_test-{os.getpid()}"
        (folder / "deeper").mkdir(parents=True)
        try:
            (folder / "deeper" / "made").touch(mode=0o600)
            before = shared_memory.existing()
            (folder / "deeper" / "made").rename(path)
            segment = shared_memory.Segment(path.stat().st_dev, path.stat().st_ino)
            assert shared_memory.unlink_unmapped({segment}, before) == []
            assert path.exists()
        finally:
            path.unlink(missing_ok=True)
            shutil.rmtree(folder)

    def test_a_mapped_segment_stays(self):
        with holding() as (child, names):
            block = next(name for name in names if not name.startswith("sem."))
            segments = shared_memory.mapped_by([child.pid])
            with running(MAPPER, str(SHM / block)) as mapper:
                child.kill()
                child.wait()
                assert names_of(shared_memory.mapped_by([mapper.pid])) == {block}
                removed = shared_memory.unlink_unmapped(segments, NOTHING)
                assert removed == [str(SHM / name) for name in names - {block}]
                assert (SHM / block).exists()
                mapper.kill()
                mapper.wait()
                assert shared_memory.unlink_unmapped(segments, NOTHING) == [str(SHM / block)]

    @pytest.mark.parametrize(
        ("name", "how", "flags", "removed"),
        [
            ("psm_{}", "O_RDWR", "MAP_SHARED", True),
            ("torch_{}", "O_RDWR", "MAP_SHARED", True),
            ("nccl-{}", "O_RDWR", "MAP_SHARED", True),
            ("psm_{}", "O_RDONLY", "MAP_SHARED", False),
            ("psm_{}", "O_RDWR", "MAP_PRIVATE", False),  # nothing that it writes gets there
            ("h6-{}.parquet", "O_RDWR", "MAP_SHARED", False),
        ],
    )
    def test_only_segments_with_known_names_are_removed(self, name, how, flags, removed):
        path = SHM / name.format(os.getpid())
        path.touch(mode=0o600)
        path.write_bytes(b"x" * 4096)
        write = "PROT_READ | mmap.PROT_WRITE" if how == "O_RDWR" else "PROT_READ"
        script = (
            "import mmap, os, sys, time\n"
            f"fd = os.open(sys.argv[1], os.{how}); m = mmap.mmap(fd, 0, flags=mmap.{flags}, prot=mmap.{write})\n"
            "os.close(fd); print('ready', flush=True); time.sleep(600)"
        )
        if (
            flags == "MAP_PRIVATE"
        ):  # which Python's own copy of the descriptor would count as open for writing
            script = script.replace("os.O_RDWR", "os.O_RDONLY")
        try:
            with running(script, str(path)) as child:
                segments = shared_memory.mapped_by([child.pid])
                child.kill()
                child.wait()
            shared_memory.unlink_unmapped(segments, NOTHING)
            assert path.exists() is not removed
        finally:
            path.unlink(missing_ok=True)

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can make a file of another user")
    def test_segments_of_other_users_stay(self):
        with holding() as (child, names):
            segments = shared_memory.mapped_by([child.pid])
            for name in names:
                os.chown(SHM / name, 65534, 65534)
            child.kill()
            child.wait()
            assert shared_memory.unlink_unmapped(segments, NOTHING) == []

    def test_one_that_is_only_open_counts_as_mapped(self):
        with holding() as (child, names):
            block = next(name for name in names if not name.startswith("sem."))
            segments = shared_memory.mapped_by([child.pid])
            child.kill()
            child.wait()
            with (SHM / block).open("r+b"):
                assert names_of(shared_memory.mapped_by([os.getpid()])) >= {block}
            with (SHM / block).open("rb"):
                assert block not in names_of(shared_memory.mapped_by([os.getpid()]))
                assert block not in map(os.path.basename, shared_memory.unlink_unmapped(segments, NOTHING))
            assert shared_memory.unlink_unmapped(segments, NOTHING) == [str(SHM / block)]

    def test_one_that_a_zombies_thread_maps_counts_as_mapped(self):
        block = standard.SharedMemory(create=True, size=4096)
        path = SHM / block.name
        try:
            segment = shared_memory.Segment(path.stat().st_dev, path.stat().st_ino)
            script = (
                f"import mmap, os\nheld = mmap.mmap(os.open({str(path)!r}, os.O_RDWR), 0)\n{ZOMBIE_LEADER}"
            )
            with running(script) as child:
                block.close()
                assert shared_memory.mapped_by([child.pid]) == {segment}
                assert shared_memory.unlink_unmapped({segment}, NOTHING) == []
                assert path.exists()
        finally:
            block.unlink()

    def test_other_segments_stay(self):
        other = standard.SharedMemory(create=True, size=4096)
        try:
            with holding() as (child, _):
                segments = shared_memory.mapped_by([child.pid])
                other.close()
                child.kill()
                child.wait()
                shared_memory.unlink_unmapped(segments, NOTHING)
                assert (SHM / other.name).exists()
        finally:
            other.unlink()

    def test_a_link_to_a_segment_is_not_taken_for_it(self):
        path = SHM / f"vllm_test-{os.getpid()}"
        links = [path.with_name(f"{path.name}-{number}") for number in range(2)]
        try:
            # One before and one after it, since the order of the folder is that of their making.
            links[0].symlink_to(path)
            path.touch(mode=0o600)
            links[1].symlink_to(path)
            segment = shared_memory.Segment(path.stat().st_dev, path.stat().st_ino)
            assert shared_memory.unlink_unmapped({segment}, NOTHING) == [str(path)]
            assert all(link.is_symlink() for link in links)
        finally:
            for made in (path, *links):
                made.unlink(missing_ok=True)

    def test_only_private_segments_are_removed_if_proc_hides_users(self, monkeypatch):
        """A process of another user may map a segment that is open to others."""
        with holding() as (child, names):
            segments = shared_memory.mapped_by([child.pid])
            private, *others = sorted(names)
            for name in others:
                (SHM / name).chmod(0o666)
            child.kill()
            child.wait()
            monkeypatch.setattr(shared_memory, "_is_free", lambda _: False)
            read = processes.read
            monkeypatch.setattr(processes, "read", lambda pid: None if pid == 1 else read(pid))
            assert shared_memory.unlink_unmapped(segments, NOTHING) == [str(SHM / private)]

    @pytest.mark.parametrize(("mode", "removed"), [(0o600, True), (0o666, False), (0o640, False)])
    def test_only_private_segments_are_removed_if_maps_are_unreadable(self, monkeypatch, mode, removed):
        with holding() as (child, names):
            segments = shared_memory.mapped_by([child.pid])
            for name in names:
                (SHM / name).chmod(mode)
            child.kill()
            child.wait()
            real = shared_memory._mapped
            # As for the process of another user; as root there is none that cannot be read.
            monkeypatch.setattr(shared_memory, "_is_free", lambda _: False)
            monkeypatch.setattr(
                shared_memory, "_mapped", lambda pid: None if pid == os.getpid() else real(pid)
            )
            assert bool(shared_memory.unlink_unmapped(segments, NOTHING)) is removed
            assert names_of(segments) == (set() if removed else names)

    def test_nothing_to_do(self):
        assert shared_memory.mapped_by([]) == set()
        assert shared_memory.mapped_by([2**22]) == set()
        assert shared_memory.unlink_unmapped([], NOTHING) == []
        assert shared_memory.unlink_unmapped([shared_memory.Segment(0, 0)], NOTHING) == []


class TestFreeSegments:
    def test_no_process_is_read_for_a_segment_that_the_kernel_calls_free(self, monkeypatch):
        with holding() as (child, names):
            segments = shared_memory.mapped_by([child.pid])
            child.kill()
            child.wait()
            if not all(shared_memory._is_free(str(SHM / name)) for name in names):
                pytest.skip("no leases here, or the segments are being looked at")
            monkeypatch.setattr(processes, "pids", lambda: pytest.fail("all processes are read"))
            assert len(shared_memory.unlink_unmapped(segments, NOTHING)) == 2

    def test_a_mapped_or_open_segment_is_not_free(self):
        with holding() as (child, names):
            assert not any(shared_memory._is_free(str(SHM / name)) for name in names)
            child.kill()
            child.wait()
            name = min(names)
            with (SHM / name).open("rb"):
                assert not shared_memory._is_free(str(SHM / name))

    def test_a_missing_file_a_link_and_a_folder_are_not_free(self, tmp_path):
        (tmp_path / "link").symlink_to("/dev/null")
        for path in (tmp_path / "nothing", tmp_path / "link", tmp_path):
            assert not shared_memory._is_free(str(path))


def _denied(*_, **__):
    raise PermissionError


# Says, as a user who is not root: whether it sees the files of one that may not be dumped and of one that may, and whether
# the first of them listens at a port that it listens at, and at one that the other does.
HIDDEN = """
import ctypes, encodings.ascii, encodings.idna, json, os, socket, time
from vllm_magic.linux import processes, sockets
dumpable = lambda yes: ctypes.CDLL(None).prctl(4, yes, 0, 0, 0)  # PR_SET_DUMPABLE
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

def listening(yes):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG
        held = socket.create_server(("127.0.0.1", 0))
        dumpable(yes)
        os.write(write, b"%d " % held.getsockname()[1])
        time.sleep(600)
    return pid, int(os.read(read, 10))

(one, port), (two, another) = listening(0), listening(1)
said = [sockets.listens([os.getpid(), one], "127.0.0.1", each) for each in (port, another)]
print(json.dumps([[not processes.open_files(pid) for pid in (one, two)], *said]), flush=True)
time.sleep(600)
"""


class TestSockets:
    LISTEN = (
        "import socket, sys, time\n"
        "held = socket.socket(int(sys.argv[2]))\n"
        "held.bind((sys.argv[1], int(sys.argv[3])))\n"
        "held.listen()\n"
        "print(held.getsockname()[1], flush=True)\n"
        "time.sleep(600)"
    )

    @pytest.fixture(autouse=True, params=["netlink", "proc"])
    def how(self, request, monkeypatch):
        """The source of the kernel's answer."""
        if request.param == "proc":
            monkeypatch.setattr(sock_diag, "dump", _denied)

    @pytest.mark.parametrize(
        ("host", "address", "elsewhere"),
        [
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0", "127.0.0.1", "::1"),
            ("::1", "::1", "127.0.0.1"),
            ("::", "::1", None),
            ("::", "127.0.0.1", None),
            ("::ffff:127.0.0.1", "127.0.0.1", "::1"),
        ],
    )
    def test_listeners_are_found(self, host, address, elsewhere):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with running(self.LISTEN, host, str(int(family)), "0") as child:
            port = int(child.line)
            assert sockets._nearest(address, port)
            assert sockets.listens([os.getpid(), child.pid], address, port)
            assert sockets.listens([os.getpid()], address, port) is False
            assert not sockets.listens([child.pid], address, port + 1 if port < 65535 else port - 1)
            assert elsewhere is None or not sockets.listens([child.pid], elsewhere, port)
            child.kill()
            child.wait()
            assert not sockets._nearest(address, port)

    def test_the_nearest_address_counts(self):
        """A socket that listens only on all IPv6 addresses gets no connections to an IPv4 address."""
        six = socket.create_server(("::", 0), family=socket.AF_INET6)  # for IPv6 alone
        port = six.getsockname()[1]
        with six, running(self.LISTEN, "127.0.0.1", str(int(socket.AF_INET)), str(port)) as child:
            assert sockets.listens([child.pid], "127.0.0.1", port)
            assert not sockets.listens([child.pid], "::1", port)
            assert sockets.listens([os.getpid()], "::1", port)

    def test_a_shared_port_does_not_belong_to_one_process(self):
        """With SO_REUSEPORT the kernel gives a connection to one of two processes of the same user."""
        with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listener:
            port = listener.getsockname()[1]
            listen = self.LISTEN.replace("held.bind", "held.setsockopt(1, socket.SO_REUSEPORT, 1)\nheld.bind")
            with running(listen, "127.0.0.1", str(int(socket.AF_INET)), str(port)) as child:
                assert not sockets.listens([os.getpid()], "127.0.0.1", port)
                assert sockets.listens([os.getpid(), child.pid], "127.0.0.1", port)

    def test_a_process_that_hides_its_files(self):
        """A process that may not be dumped counts if it has the socket's user, and no visible process has the socket."""
        with running(HIDDEN) as child:
            hidden, ours, other = json.loads(child.line)
        assert hidden == [True, False]
        assert ours is True
        assert other is False

    def test_listeners_without_proc_and_netlink(self, monkeypatch):
        monkeypatch.setattr(sock_diag, "dump", _denied)
        monkeypatch.setattr("builtins.open", _denied)
        assert sockets.listens([os.getpid()], "127.0.0.1", 80) is None

    def test_a_connection_is_not_a_listener(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                accepted = listener.accept()[0]
                assert sockets.listens([os.getpid()], "127.0.0.1", port)
                assert not sockets.listens([os.getpid()], "127.0.0.1", client.getsockname()[1])
                listener.close()
                assert sockets._nearest("127.0.0.1", port) == []
                accepted.close()

    def test_a_port_that_is_only_bound_is_not_listened_on(self):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            assert not sockets.listens([os.getpid()], "127.0.0.1", bound.getsockname()[1])

    def test_a_child_that_inherited_the_socket_listens_too(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with running(
                "print('ready', flush=True); import time; time.sleep(600)", pass_fds=[listener.fileno()]
            ) as child:
                assert sockets.listens([child.pid], "127.0.0.1", port)
                listener.close()
                assert sockets.listens([child.pid], "127.0.0.1", port)

    def test_a_repeated_check_reads_no_process(self, monkeypatch):
        """The open files of the processes are read only once while the same socket listens."""
        looks = []
        real = sockets.open_files
        monkeypatch.setattr(sockets, "open_files", lambda pid: looks.append(pid) or real(pid))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            listening = sockets.ListenerCheck("127.0.0.1", port)
            assert listening.belongs_to(lambda: [1]) is False
            assert listening.belongs_to(lambda: [os.getpid()])
            looks.clear()
            for _ in range(3):
                assert listening.belongs_to(lambda: [os.getpid()])
            assert looks == []
        assert listening.belongs_to(lambda: [os.getpid()]) is False
        with running(self.LISTEN, "127.0.0.1", str(int(socket.AF_INET)), str(port)) as child:
            assert listening.belongs_to(lambda: [os.getpid()]) is False
            assert listening.belongs_to(lambda: [child.pid])


class TestMemory:
    def test_this_machine(self):
        assert 0 < memory.available() < 2**60
        assert memory.used_by(os.getpid()) > 2**20
        assert memory.used_by(2**22 + 1) == 0

    @pytest.mark.parametrize(
        ("line", "folder", "names", "none"),
        [
            ("0::/a/b\n", "", ("memory.max", "memory.current", "inactive_file"), "max"),
            (
                "4:memory:/a/b\n1:cpu:/\n",
                "memory",
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
                str(2**63 - 4096),
            ),
        ],
    )
    def test_the_least_of_all_limits(self, tmp_path, line, folder, names, none):
        limit, used, cache = names
        groups = tmp_path / "sys/fs/cgroup" / folder
        for path, text in (
            (tmp_path / "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"),
            (tmp_path / "proc/self/cgroup", line),
            (groups / "a" / limit, "5000000"),
            (groups / "a" / used, "4500000"),
            (groups / "a/memory.stat", f"anon 1\n{cache} 1000000\n"),
            (groups / "a/b" / limit, none),
            (groups / "a/b" / used, "7"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert memory.available(str(tmp_path)) == 1_500_000
        (groups / "a" / limit).write_text(none)
        assert memory.available(str(tmp_path)) == 8000 * 1024

    def test_memory_is_unknown_without_proc(self, tmp_path):
        assert memory.available(str(tmp_path)) is None
