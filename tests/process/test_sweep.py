"""Folders and records that a crash left on disk: a sweep releases what provably belongs to it, and reports the rest."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import by_hand
import pytest
import stand_in
from IPython.utils.capture import capture_output
from records import IDENTIFIER, record
from shells import a_shell

from vllm_magic import cli, ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.guard import record as records
from vllm_magic.guard.ladder import Outcome
from vllm_magic.ledger import Condition
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.marks import MARK
from vllm_magic.linux.processes import Identity
from vllm_magic.linux.shared_memory import Segment
from vllm_magic.recovery.sweep import sweep
from vllm_magic.release import force_kill
from vllm_magic.release.result import Proof

LIMIT = 20.0
STUBBORN = {"ignore_sigterm": True, "setsid_child": True, "daemonise": True}
KERNEL = """
import json, sys, vllm_magic
s = vllm_magic.start("tiny", env=json.loads(sys.argv[1]))
print(s.pid, flush=True); sys.stdin.readline()
"""


def kill_at_once(*victims: Identity) -> None:
    """All are stopped first, so that none notices the death of another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for victim in victims:
            assert pidfd.send(victim, number)
    assert pidfd.wait_for_all(victims, LIMIT) == set()


@pytest.fixture
def faults() -> dict:
    """The faults of the orphan's server."""
    return STUBBORN


@pytest.fixture
def orphan(home, executable, faults):
    """A server whose kernel and guards were killed at the same time: the entry, and the surviving processes."""
    env = {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable}
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL, json.dumps(stand_in.options(**faults))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
    ) as kernel:
        kernel.stdout.readline()
        by_hand.until_ready(kernel.pid)
        (entry,) = ledger.entries()
        server = {one.identity for one in entry.processes}
        by_hand.until(
            lambda: server <= {Identity(*one) for one in records.read_known_processes(str(entry.path))},
            "not known",
        )
        kill_at_once(
            processes.read(kernel.pid).identity, Identity(*entry.record.outer), Identity(*entry.record.inner)
        )
        assert not pidfd.wait_for_all([entry.leader], LIMIT)  # it goes with its guard
    (entry,) = ledger.entries()
    survivors = {one for one in server if processes.is_alive(one)}
    yield entry, survivors
    for one in survivors:
        pidfd.send(one, signal.SIGKILL)


class TestOrphans:
    def test_it_is_released_and_proved(self, fake_gpus, orphan, probe, traces):
        entry, survivors = orphan
        assert entry.condition is Condition.ORPHANED
        assert len(survivors) >= 3
        assert {one.identity for one in entry.processes} == survivors
        assert probe.snapshot().gpus[0].used >= 2 << 30
        (swept,) = sweep(probe)
        assert swept.release.verified
        assert swept.release.proof is Proof.NVML_MEMORY
        assert swept.release.vram[0].freed >= 2 << 30
        assert "tiny was left by a kernel that died" in swept.text
        assert pidfd.wait_for_all(survivors, LIMIT) == set()
        assert probe.snapshot().gpus[0].used == 0
        traces.check()
        assert [log.name for log in (entry.path.parent / "logs").iterdir()] == [
            f"tiny-{entry.id}.vllm-magic.log"
        ]

    @pytest.mark.parametrize("faults", [{"unmarked": True}])
    def test_what_carries_no_mark_goes_too(self, fake_gpus, orphan, probe, traces):
        """A process in the leader's session, and one that left it. The others have ended before the sweep."""
        entry, survivors = orphan
        marked = {one for one in survivors if processes.has_environment(one.pid, entry.folder.mark)}
        unmarked = survivors - marked
        assert len(unmarked) == 2
        for one in marked:
            pidfd.send(one, signal.SIGKILL)
        assert pidfd.wait_for_all(marked, LIMIT) == set()
        assert ledger.read_entry(entry.path).condition is Condition.ORPHANED
        (swept,) = sweep(probe)
        assert swept.release.verified
        assert {Identity(one.pid, one.start) for one in swept.release.ended} >= unmarked
        assert pidfd.wait_for_all(unmarked, LIMIT) == set()
        assert probe.snapshot().gpus[0].used == 0
        traces.check()

    @pytest.mark.parametrize("faults", [{"unmarked": True}])
    def test_a_process_that_does_not_end_keeps_its_folder(self, orphan, probe, monkeypatch):
        """Only the record shows to which server the processes belong."""
        entry, survivors = orphan
        nothing = Outcome([], [], 0.0)
        monkeypatch.setattr(force_kill, "kill_server", lambda *_, **__: nothing)
        (swept,) = sweep(probe)
        assert not swept.verified
        assert ledger.read_entry(entry.path).condition is Condition.ORPHANED
        assert {one for one in survivors if processes.is_alive(one)}

    def test_two_sweeps_at_once(self, orphan, probe, traces):
        """Only one of them releases the server."""
        done = []
        threads = [threading.Thread(target=lambda: done.extend(sweep(Probe()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert len([swept for swept in done if swept.release]) == 1
        traces.check()

    def test_the_next_start_needs_its_memory(self, fake_gpus, orphan, manager, spec, traces):
        server = manager.start(spec("other"), timeout=60).server
        assert server.state == "ready"
        assert ["left by a kernel that died" in line for line in manager.news()] == [True]
        release = server.stop()
        assert release.vram[0].baseline == 0
        traces.check()

    def test_loading_the_extension(self, orphan, traces):
        """It sweeps in the background, and reports after the next cell."""
        _, survivors = orphan
        with a_shell() as shell:
            shell.run_line_magic("load_ext", "vllm_magic")
            assert pidfd.wait_for_all(survivors, LIMIT) == set()
            deadline = time.monotonic() + LIMIT
            said = ""
            while "left by a kernel" not in said:
                assert time.monotonic() < deadline
                with capture_output() as captured:
                    shell.run_cell("pass")
                said += captured.stdout
            shell.run_line_magic("unload_ext", "vllm_magic")
        assert said.count("tiny was left by a kernel that died") == 1
        traces.check()

    def test_processes_of_others_are_left_alone(self, orphan, probe):
        with by_hand.bystander() as bystander:
            sweep(probe)
            assert bystander.poll() is None


class TestWhoHasItsEnvironmentOnly:
    """A person debugs a server, and runs a command with its environment in a shell."""

    @pytest.mark.parametrize("shell_lives", [True, False])
    def test_a_sweep_leaves_a_copied_environment_alone(self, orphan, probe, shell_lives, traces):
        entry, survivors = orphan
        with by_hand.debugging(entry.processes[0].identity.pid, shell_lives=shell_lives) as (other, command):
            assert command.identity not in {one.identity for one in entry.processes}
            (swept,) = sweep(probe)
            assert processes.is_alive(other.identity)
            assert processes.is_alive(command.identity)
            assert swept.release.verified
            assert f"sleep 301 (pid {command.identity.pid})" in swept.text
        assert pidfd.wait_for_all(survivors, LIMIT) == set()
        traces.check()

    def test_it_is_not_what_is_left_of_a_server(self, orphan, probe, traces):
        entry, _ = orphan
        with by_hand.debugging(entry.processes[0].identity.pid) as (_, command):
            by_hand.end(entry)
            assert ledger.read_entry(entry.path).condition is Condition.LEFT
            (swept,) = sweep(probe)
            assert swept.release is None
            assert f"sleep 301 (pid {command.identity.pid})" in swept.text
            assert processes.is_alive(command.identity)
        traces.check()

    def test_a_process_in_a_group_of_the_server_is_left_alone(self, home, probe):
        """No group is killed as a whole, since it may have other members."""
        identifier = f"{os.getpid() + 2**22:08x}"
        shell = f"{sys.executable} -c 'from vllm_magic.linux import marks; marks.seal(\"{identifier}\"); print(1, flush=True); import time; time.sleep(300)'"
        with subprocess.Popen(
            ["sh", "-c", f"{shell}; sleep 301"], stdout=subprocess.PIPE, start_new_session=True
        ) as other:
            other.stdout.readline()
            put(identifier, kernel=dead())
            (swept,) = sweep(probe)
            assert [one.how for one in swept.release.ended] == ["SIGKILL"]
            assert other.poll() is None
            assert processes.read(other.pid).state != "T"
            os.killpg(other.pid, signal.SIGKILL)

    @pytest.mark.parametrize("how", ["kernel", "terminal"])
    def test_a_stop_does_not_fail_for_it(self, manager, spec, traces, how, capsys):
        server = manager.start(spec(), timeout=60).server
        with by_hand.debugging(server.pid) as (other, command):
            if how == "terminal":
                assert cli.main(["stop", "tiny"]) == cli.DONE
                said = capsys.readouterr().out
            else:
                release = server.stop()
                assert release.verified
                said = release.text
            assert f"sleep 301 (pid {command.identity.pid})" in said
            assert processes.is_alive(other.identity)
            assert processes.is_alive(command.identity)
        traces.check()


@contextlib.contextmanager
def leader_with_mark(identifier: str):
    """A process with the mark of a server."""
    with by_hand.bystander(mark={MARK: identifier}) as process:
        yield by_hand.identity(process.pid)


def put(identifier: str = IDENTIFIER, **fields) -> Path:
    """A folder with a record in the state folder."""
    path = ledger.state_folder() / identifier
    path.mkdir(mode=0o700)
    (path.parent / "logs").mkdir(mode=0o700, exist_ok=True)
    (path / "t").mkdir(mode=0o700)
    (path / "log").write_text("said\n")
    records.write(str(path), record(identifier, **fields))
    return path


def dead() -> list[int]:
    """The identity of a process that has ended."""
    with by_hand.bystander() as process:
        identity = by_hand.identity(process.pid)
    return list(identity)


def is_left_alone(path: Path, probe: Probe, condition: Condition) -> str:
    """Check that a sweep leaves the folder and a process with its mark alone; return the reported problem."""
    with leader_with_mark(path.name) as leader:
        (entry,) = ledger.entries()
        assert entry.condition is condition
        assert sweep(probe) == []
        assert processes.is_alive(leader)
    assert (path / "log").exists()
    return entry.problem


class TestWhatIsLeftAlone:
    def test_a_server_whose_kernel_lives(self, home, probe):
        assert is_left_alone(put(outer=dead(), inner=dead()), probe, Condition.OWNED) == ""

    @pytest.mark.parametrize("guard", ["outer", "inner"])
    def test_a_server_with_a_living_guard(self, home, probe, guard):
        me = list(processes.read(os.getpid()).identity)
        assert is_left_alone(put(kernel=dead(), **{guard: me}), probe, Condition.RELEASING) == ""

    def test_a_server_whose_guards_lock_is_held(self, home, probe):
        path = put(kernel=dead())
        lock = records.hold_lock(str(path))
        assert is_left_alone(path, probe, Condition.RELEASING) == ""
        os.close(lock)
        assert ledger.read_entry(path).condition is Condition.LEFT

    def test_a_check_of_the_lock_makes_no_file(self, home):
        """A file that is made while another kernel clears the folder would stay in it."""
        path = put(kernel=dead())
        before = sorted(path.iterdir())
        assert ledger.read_entry(path).condition is Condition.LEFT
        assert sorted(path.iterdir()) == before

    def test_checks_of_the_lock_do_not_count_each_other(self, home, monkeypatch):
        """A check of the lock by another process does not keep a start from releasing the server."""
        path = put(kernel=dead())
        os.close(records.hold_lock(str(path)))
        flock, seen = fcntl.flock, []

        def look_meanwhile(fd: int, operation: int) -> None:
            flock(fd, operation)
            if not seen:
                seen.append(None)
                seen[0] = ledger.read_entry(path).condition

        monkeypatch.setattr(fcntl, "flock", look_meanwhile)
        assert ledger.read_entry(path).condition is Condition.LEFT
        assert seen == [Condition.LEFT]

    def test_a_sweep_takes_the_lock_despite_checks(self, home, probe, monkeypatch):
        path = put(kernel=dead())
        os.close(records.hold_lock(str(path)))
        with (path / records.LOCK).open() as looking:
            fcntl.flock(looking, fcntl.LOCK_SH)
            monkeypatch.setattr(records.time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
            assert sweep(probe)
        assert not path.exists()

    @pytest.mark.parametrize(
        ("position", "other", "problem"),
        [
            (0, "another", "of the machine another"),
            (1, "0-0-0", "from before this machine was started"),
            (2, "pid:[1]", "another container"),
            (2, f"{os.readlink('/proc/self/ns/pid')} since 999", "another container"),  # an earlier one
            (3, 12345, "belongs to the user 12345"),
        ],
    )
    def test_a_record_of_another_place(self, home, probe, position, other, problem):
        place = record().place
        place[position] = other
        assert problem in is_left_alone(put(kernel=dead(), place=place), probe, Condition.FOREIGN)

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"\xff\x00", b"null", b"[]", b'{"version": 1}', b'{"version": 2}', b"[" * 100_000],
        ids=repr,
    )
    def test_a_torn_record(self, home, probe, content):
        path = put(kernel=dead())
        (path / records.NAME).write_bytes(content[:20] if content == b"[" * 100_000 else content)
        assert is_left_alone(path, probe, Condition.TORN)

    def test_a_record_that_was_copied_elsewhere(self, home, probe):
        path = put(kernel=dead())
        other = path.parent / "ffffffff"
        path.rename(other)
        assert f"a copy of '{IDENTIFIER}'" in is_left_alone(other, probe, Condition.TORN)

    def test_a_link_in_place_of_the_record(self, home, probe, tmp_path):
        path = put(kernel=dead())
        (path / records.NAME).rename(tmp_path / "elsewhere.json")
        (path / records.NAME).symlink_to(tmp_path / "elsewhere.json")
        assert is_left_alone(path, probe, Condition.TORN)

    def test_no_record(self, home, probe):
        path = put(kernel=dead())
        (path / records.NAME).unlink()
        (path / "log").touch()
        assert ledger.entries() == []  # it may be on its way
        old = time.time() - 2 * ledger.CREATION_LIMIT
        os.utime(path, (old, old))
        assert is_left_alone(path, probe, Condition.TORN) == "it has no record"

    def test_a_pid_of_another_process(self, home, probe):
        """The record's leader is dead, and another process has its pid."""
        with by_hand.bystander() as other:
            put(kernel=dead(), leader=[other.pid, by_hand.identity(other.pid).start - 1])
            (swept,) = sweep(probe)
            assert swept.release is None
            assert other.poll() is None

    def test_a_record_that_names_another_process(self, home, probe):
        """As its leader, with the right start time. A record can be edited, so only a process with a mark counts."""
        with by_hand.bystander() as other:
            path = put(kernel=dead(), leader=list(by_hand.identity(other.pid)))
            (entry,) = ledger.entries()
            assert entry.condition is Condition.LEFT
            assert entry.leader is None
            (swept,) = sweep(probe)
            assert swept.release is None
            assert other.poll() is None
        assert not path.exists()

    def test_a_session_of_another_process(self, home, probe):
        """A daemon's parent had the pid of the record's leader. It has ended, and the daemon lives."""
        fork_twice = "import os, time\nif os.fork() == 0:\n print(os.getpid(), flush=True); time.sleep(60)"
        with subprocess.Popen(
            [sys.executable, "-c", fork_twice], stdout=subprocess.PIPE, start_new_session=True
        ) as parent:
            daemon = processes.read(int(parent.stdout.readline()))
            parent.wait()
            try:
                assert daemon.session == parent.pid
                put(kernel=dead(), leader=[parent.pid, 1])
                (swept,) = sweep(probe)
                assert swept.release is None
                assert processes.is_alive(daemon.identity)
            finally:
                assert pidfd.send(daemon.identity, signal.SIGKILL)


class TestWhatIsCleared:
    def test_files_of_a_server_without_living_processes(self, home, probe, tmp_path):
        path = put(kernel=dead())
        outside = tmp_path / "outside"
        outside.write_text("stays")
        (path / "t" / "deep").mkdir()
        (path / "t" / "deep" / "file").write_text("")
        (path / "t" / "link").symlink_to(tmp_path)
        (swept,) = sweep(probe)
        assert swept.text == "tiny: its files were left, and are cleared."
        assert not path.exists()
        assert outside.read_text() == "stays"
        assert (home / "logs" / f"tiny-{IDENTIFIER}.vllm-magic.log").read_text() == "said\n"

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_on_a_file_system_without_locks(self, home, probe, monkeypatch, number):
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)
        path = put(kernel=dead())
        with leader_with_mark(path.name) as leader:
            assert [swept.release.verified for swept in sweep(probe)] == [True]
            assert not processes.is_alive(leader)
        assert not path.exists()

    def test_folders_nested_too_deeply_for_python(self, home, probe):
        """They make no start fail, and the record stays as long as they do."""
        path = put(kernel=dead())
        fd = os.open(path / "t", os.O_RDONLY)
        for _ in range(2 * sys.getrecursionlimit()):
            os.mkdir("d", dir_fd=fd)
            deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)
        swept = sweep(probe)
        try:
            entry = ledger.read_entry(path)
            assert bool(swept) is (entry is None)
            assert entry is None or entry.condition is Condition.LEFT
        finally:
            subprocess.run(["rm", "-rf", path / "t"], check=True)
        assert (ledger.read_entry(path) is None) or sweep(probe)
        assert not path.exists()

    @pytest.mark.parametrize("before", ["not there", "there", "unknown"])
    def test_shared_memory_that_it_had_mapped(self, home, probe, before):
        segment = Path(f"/dev/shm/psm_test_{os.getpid()}")
        segment.touch(mode=0o600)
        os.utime(segment, (0, 0))  # the clock was set back, and is right again
        stat = segment.stat()
        known = Segment(stat.st_dev, stat.st_ino)
        folder = put(kernel=dead(), segments=[list(known)])
        if before != "unknown":
            records.write_existing_segments(str(folder), {known} if before == "there" else set())
        try:
            sweep(probe)
            assert segment.exists() == (before != "not there")
        finally:
            segment.unlink(missing_ok=True)

    def test_a_link_in_place_of_a_short_tmpdir(self, home, probe, tmp_path, monkeypatch):
        """A user who guesses the name may put a link in the place of a folder that is gone."""
        monkeypatch.setattr(ledger, "LONGEST_TMP", 1)
        treasure = tmp_path / "treasure"
        treasure.mkdir()
        (treasure / "file").write_text("stays")
        path = put(f"{os.getpid():08x}", kernel=dead())
        tmp = Path(f"/tmp/vllm-{path.name}")
        tmp.symlink_to(treasure)
        try:
            sweep(probe)
        finally:
            tmp.unlink(missing_ok=True)
        assert not path.exists()
        assert (treasure / "file").read_text() == "stays"


class TestRecords:
    def test_a_living_server_says_all(self, home, manager, spec):
        server = manager.start(spec("tiny", "--max-model-len", "512"), timeout=60).server
        (entry,) = ledger.entries()
        deadline = time.monotonic() + LIMIT
        while entry.record.phase != "ready":
            assert time.monotonic() < deadline
            (entry,) = ledger.entries()
        found = entry.record
        assert (found.name, found.model, found.args) == ("tiny", "tiny", ["--max-model-len", "512"])
        assert (found.url, found.port) == (server.url, server.port)
        assert entry.leader.pid == server.pid
        assert found.kernel == list(processes.read(os.getpid()).identity)
        assert found.segments
        inner = processes.read(server.processes()[0].parent)
        assert (found.inner, found.outer[0]) == (list(inner.identity), inner.parent)
        assert server.api_key not in (entry.path / records.NAME).read_text()
