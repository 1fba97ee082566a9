"""A log that grows without end stays small on disk, and costs little time."""

from __future__ import annotations

import ctypes
import os
import select
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest

from vllm_magic.engine.startup.log import Follower, tail
from vllm_magic.guard import folder, log_cap
from vllm_magic.guard.log_cap import CHECK_INTERVAL, LARGEST_LOG, LogCap
from vllm_magic.linux import files, inotify

MIB = 2**20


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def is_ready(cap: LogCap, seconds: float) -> bool:
    return bool(select.select([cap], [], [], seconds)[0])


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def grow(path: Path, size: int, last: bytes = b"\nlast\n") -> None:
    """Give the log this size, with nearly no block on disk."""
    os.truncate(path, size - len(last))
    append(path, last)


@pytest.fixture
def path(tmp_path) -> Path:
    made = tmp_path / "log"
    made.touch()
    return made


@pytest.fixture
def cap(path):
    made = LogCap(str(path), limit=4 * MIB)
    yield made
    made.close()


def settle(cap: LogCap) -> None:
    """Trim until the cap is not readable any more."""
    while is_ready(cap, CHECK_INTERVAL * 8):
        cap.trim()


class TestWatching:
    def test_it_is_silent_while_nothing_is_logged(self, cap, path):
        assert not is_ready(cap, CHECK_INTERVAL * 2)
        append(path, b"one\n")
        assert is_ready(cap, 10)
        settle(cap)
        assert not is_ready(cap, CHECK_INTERVAL * 2)

    def test_a_flood_wakes_it_a_few_times_a_second(self, cap, path):
        over = threading.Event()

        def write() -> None:
            while not over.wait(0.001):
                append(path, b"x" * 100 + b"\n")

        writing = threading.Thread(target=write)
        writing.start()
        began, looks = time.monotonic(), 0
        try:
            while time.monotonic() - began < 2:
                looks += is_ready(cap, 2)
                cap.trim()
        finally:
            over.set()
            writing.join(10)
        # Two wake-ups for each rest: the timer, and what was written meanwhile.
        assert 2 <= looks <= 2 * (time.monotonic() - began) / CHECK_INTERVAL + 2

    def test_a_log_that_was_deleted_is_capped_as_long_as_it_is_written(self, cap, path):
        with path.open("ab") as server:
            path.unlink()
            server.write(b"x" * 8 * MIB)
            server.flush()
            settle(cap)
            assert os.fstat(server.fileno()).st_blocks * 512 <= 2 * MIB

    def test_a_folder_that_has_vanished(self, cap, path):
        path.unlink()
        path.parent.rmdir()
        settle(cap)

    @pytest.mark.parametrize("call", ["inotify_init1", "inotify_add_watch", "timerfd_create"])
    def test_where_it_cannot_watch_there_is_no_cap_and_nothing_stays_open(self, path, monkeypatch, call):
        def fails(*_: object) -> int:
            ctypes.set_errno(24)
            return -1

        real = inotify.LIBC

        class Broken:
            def __getattr__(self, name: str):
                return fails if name == call else getattr(real, name)

        monkeypatch.setattr(inotify, "LIBC", Broken())
        before = len(os.listdir("/proc/self/fd"))
        assert log_cap.watch(str(path)) is None
        with pytest.raises(OSError, match="Too many open files"):
            LogCap(str(path))
        assert len(os.listdir("/proc/self/fd")) == before

    def test_no_log(self, tmp_path):
        assert log_cap.watch(str(tmp_path / "none")) is None

    def test_closed_nothing_stays_open(self, path):
        before = len(os.listdir("/proc/self/fd"))
        LogCap(str(path)).close()
        assert len(os.listdir("/proc/self/fd")) == before


class TestCutting:
    def test_the_end_stays_and_no_byte_moves(self, cap, path):
        inode = path.stat().st_ino
        lines = b"".join(b"%09d\n" % number for number in range(MIB // 2))
        append(path, lines)
        settle(cap)
        assert (path.stat().st_ino, path.stat().st_size) == (inode, len(lines))
        assert on_disk(path) <= MIB + 8192
        assert path.read_bytes()[-MIB:] == lines[-MIB:]

    def test_a_short_log_is_not_cut(self, cap, path):
        append(path, b"x" * 2 * MIB)
        settle(cap)
        assert on_disk(path) == 2 * MIB

    def test_a_log_that_the_server_has_emptied(self, cap, path):
        append(path, b"x" * 3 * MIB)
        settle(cap)
        os.truncate(path, 0)
        append(path, b"y" * 3 * MIB)
        settle(cap)
        assert on_disk(path) <= MIB + 8192

    def test_200_mb_and_then_two_gb_cost_nothing(self, path):
        with path.open("r+b") as file:
            file.truncate(2000 * MIB)  # sparse, and then 200 MB in earnest
        for _ in range(200):
            append(path, b"x" * (MIB - 1) + b"\n")
        cap = LogCap(str(path))
        tracemalloc.start()
        began = time.process_time()
        append(path, b"last\n")
        settle(cap)
        assert tail(path, 1) == ["last"]
        spent, memory = time.process_time() - began, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spent < 2
        assert memory < 8 * MIB
        assert on_disk(path) <= LARGEST_LOG // 4 + 8192
        assert path.stat().st_size == 2200 * MIB + 5
        cap.close()


class TestWithoutHoles:
    @pytest.fixture(autouse=True)
    def no_holes(self, monkeypatch):
        def refuse(fd: int, end: int) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(files, "_punch_hole", refuse)

    def test_the_last_of_it_is_written_anew(self, cap, path):
        with path.open("ab") as server:
            server.write(b"x" * 8 * MIB + b"\nlast\n")
            server.flush()
            settle(cap)
            assert path.stat().st_size == MIB
            server.write(b"more\n")
        assert tail(path, 2) == ["last", "more"]

    def test_a_follower_goes_on_from_there(self, cap, path):
        follower = Follower(path)
        append(path, b"first\n" + b"x" * 8 * MIB + b"\nlast\n")
        assert follower.new_lines()[-1] == "last"
        settle(cap)
        append(path, b"more\n")
        assert follower.new_lines()[-1] == "more"
        append(path, b"and more\n")
        assert follower.new_lines() == ["and more"]


class TestReaders:
    """A hole reads as NULs. They are not shown, and gigabytes of them are not read."""

    def test_a_hole_is_not_shown(self, path):
        os.truncate(path, 2**31)
        append(path, b"rest of a line\none\ntwo\n")
        began = time.process_time()
        assert tail(path, 9) == ["one", "two"]
        assert Follower(path).new_lines()[-2:] == ["one", "two"]
        assert time.process_time() - began < 2

    def test_a_hole_alone(self, path):
        os.truncate(path, 2**31)
        assert tail(path, 9) == []
        assert Follower(path).new_lines() == []


class TestKept:
    @pytest.fixture
    def order(self, tmp_path):
        private = tmp_path / "folder"
        (private / "t").mkdir(parents=True)
        (private / "log").touch(mode=0o600)
        return SimpleNamespace(
            folder=str(private),
            tmp=str(private / "t"),
            log=str(private / "log"),
            keep_log=str(tmp_path / "kept.log"),
        )

    def test_a_short_log_is_moved(self, order):
        append(Path(order.log), b"one\ntwo\n")
        inode = os.stat(order.log).st_ino
        folder.clear(**vars(order))
        assert os.stat(order.keep_log).st_ino == inode
        assert Path(order.keep_log).read_bytes() == b"one\ntwo\n"
        assert not os.path.exists(order.folder)

    def test_the_kept_end_of_a_cut_log_begins_with_a_whole_line(self, order):
        os.truncate(order.log, 2**31)
        append(Path(order.log), b"rest of a line\none\ntwo\n")
        began = time.process_time()
        folder.clear(**vars(order))
        assert time.process_time() - began < 2
        assert Path(order.keep_log).read_bytes() == b"one\ntwo\n"
        assert os.stat(order.keep_log).st_mode & 0o777 == 0o600
        assert not os.path.exists(order.folder)

    def test_only_the_end_of_a_log_without_a_cap_is_kept(self, order, monkeypatch):
        monkeypatch.setattr(log_cap, "LARGEST_LOG", MIB)
        line = b"x" * 99 + b"\n"
        append(Path(order.log), line * 20000)
        folder.clear(**vars(order))
        kept = Path(order.keep_log).read_bytes()
        assert kept == line * (MIB // 100)

    def test_a_full_disk(self, order, monkeypatch):
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "sendfile", full)
        grow(Path(order.log), 100 * MIB)
        folder.clear(**vars(order))
        assert tail(Path(order.keep_log), 1) == ["last"]
        assert on_disk(Path(order.keep_log)) < MIB
        assert not os.path.exists(order.folder)

    def test_a_file_system_that_cannot_tell_its_holes(self, order, monkeypatch):
        """As lseek(2) has it: EINVAL."""
        lseek = os.lseek

        def seek(fd: int, position: int, how: int) -> int:
            if how == os.SEEK_DATA:
                raise OSError(22, "Invalid argument")
            return lseek(fd, position, how)

        monkeypatch.setattr(os, "lseek", seek)
        append(Path(order.log), b"one\ntwo\n")
        folder.clear(**vars(order))
        assert Path(order.keep_log).read_bytes() == b"one\ntwo\n"

    def test_a_second_clearing_does_nothing(self, order):
        append(Path(order.log), b"one\n")
        folder.clear(**vars(order))
        folder.clear(**vars(order))
        assert Path(order.keep_log).read_bytes() == b"one\n"

    def test_clearing_an_endless_folder_stops_at_the_limit(self, order, monkeypatch):
        monkeypatch.setattr(folder, "CLEAR_LIMIT", 0.0)
        append(Path(order.log), b"one\n")
        (Path(order.tmp) / "file").touch()
        folder.clear(**vars(order))
        assert Path(order.keep_log).read_bytes() == b"one\n"
        assert os.path.exists(order.tmp)
        monkeypatch.setattr(folder, "CLEAR_LIMIT", 10.0)
        folder.clear(**vars(order))
        assert not os.path.exists(order.folder)
