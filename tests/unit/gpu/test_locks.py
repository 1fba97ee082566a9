"""Locks between real processes: a start waits for every release on its GPUs, and for nothing else."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vllm_magic.gpu import locks
from vllm_magic.gpu.locks import ReleaseLocks, lock_paths, wait_for_releases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 60.0  # seconds; no test waits this long unless it fails
SHORT = 0.2
HOME = locks._home


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the locks of a test away from those of real kernels."""
    monkeypatch.setattr(locks, "_PARENT", tmp_path)
    (tmp_path / "user").mkdir(mode=0o700)
    monkeypatch.setattr(locks, "_home", lambda: tmp_path / "user")
    monkeypatch.setattr(locks, "_RUN", tmp_path / "run")
    return tmp_path / f"vllm-magic-{os.getuid()}"


def can_start(*uuids: str, timeout: float = SHORT) -> bool:
    return wait_for_releases(uuids, timeout, threading.Event())


def test_the_files_are_private_and_stay_the_same(folder: Path) -> None:
    first = lock_paths(["GPU-a", "GPU-b"])
    assert first == (folder / "GPU-a.lock", folder / "GPU-b.lock")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in first] == [0o600, 0o600]
    inodes = [path.stat().st_ino for path in first]
    assert [path.stat().st_ino for path in lock_paths(["GPU-a", "GPU-b"])] == inodes


def test_a_start_with_no_release_goes_ahead() -> None:
    assert can_start("GPU-a", "GPU-b")
    assert can_start()


def test_a_start_waits_for_a_release_in_this_process() -> None:
    with ReleaseLocks(["GPU-a"]):
        assert not can_start("GPU-a")
    assert can_start("GPU-a")


def test_a_start_that_waits_can_be_cancelled() -> None:
    cancelled = threading.Event()
    canceller = threading.Timer(SHORT, cancelled.set)
    canceller.start()
    with ReleaseLocks(["GPU-a"]):
        assert not wait_for_releases(["GPU-a"], 10 * LONG, cancelled)
    assert cancelled.is_set()
    canceller.join()


def test_a_forked_child_does_not_keep_the_lock_of_a_release_that_is_over() -> None:
    (path,) = lock_paths(["GPU-a"])
    with ReleaseLocks(["GPU-a"]):
        links = [link for link in Path("/proc/self/fd").iterdir() if link.exists() and link.samefile(path)]
        (inherited,) = [os.dup(int(link.name)) for link in links]
    assert can_start("GPU-a")
    os.close(inherited)


def test_entering_twice_in_turn_is_fine() -> None:
    release = ReleaseLocks(["GPU-a"])
    for _ in range(2):
        with release:
            assert not can_start("GPU-a")
        assert can_start("GPU-a")


def test_a_word_that_is_no_uuid_makes_no_file(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.\./x' is not the UUID of a GPU"):
        lock_paths(["../x"])
    assert list(folder.iterdir()) == []


def make_symlink(folder: Path) -> None:
    (folder.parent / "other").mkdir(mode=0o700)
    folder.symlink_to("other")


def make_open_to_others(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def make_file(folder: Path) -> None:
    folder.touch(mode=0o700)


def make_of_another_user(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of another user")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


BAD = [make_symlink, make_open_to_others, make_file, make_of_another_user]


@pytest.mark.parametrize("make", BAD)
def test_a_folder_that_is_not_private_is_replaced_by_another(
    folder: Path, tmp_path: Path, make: object
) -> None:
    """Any user can make a folder of that name in /tmp, but not in this user's home."""
    assert callable(make)
    make(folder)
    assert lock_paths(["GPU-a"]) == (tmp_path / "user" / ".vllm-magic-locks" / "GPU-a.lock",)
    with ReleaseLocks(["GPU-a"]):
        assert not can_start("GPU-a")
        assert list(locks.releases_under_way()) == ["GPU-a"]
    assert can_start("GPU-a")
    assert locks.lock_problem() == ""


@pytest.mark.parametrize("make", BAD)
def test_without_a_private_folder_nothing_is_locked(folder: Path, tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(folder)
    (tmp_path / "user").rmdir()
    assert lock_paths(["GPU-a"]) == ()
    with ReleaseLocks(["GPU-a"]):
        assert can_start("GPU-a")
    assert locks.releases_under_way() == {}
    assert f"{folder} is not a folder of yours alone" in locks.lock_problem()


def test_the_runtime_directory_does_not_depend_on_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel in a session has $XDG_RUNTIME_DIR, and one that a service started may not have it."""
    own = tmp_path / "run" / str(os.getuid())
    own.mkdir(parents=True, mode=0o700)
    for value in (str(tmp_path), ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert lock_paths(["GPU-a"]) == (own / "vllm-magic" / "GPU-a.lock",)


def test_a_start_checks_every_folder(tmp_path: Path) -> None:
    """The runtime directory comes with a login, while another kernel is at its release."""
    with ReleaseLocks(["GPU-a"]):
        (tmp_path / "run" / str(os.getuid())).mkdir(parents=True, mode=0o700)
        assert lock_paths(["GPU-a"])[0].is_relative_to(tmp_path / "run")
        assert not can_start("GPU-a")
        assert list(locks.releases_under_way()) == ["GPU-a"]
    assert can_start("GPU-a")


def test_a_lock_file_that_is_a_link_is_refused(folder: Path, tmp_path: Path) -> None:
    lock_paths(["GPU-b"])
    (folder / "GPU-a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        lock_paths(["GPU-a"])
    assert not (tmp_path / "elsewhere").exists()


@contextlib.contextmanager
def looking(uuid: str) -> Iterator[Callable[[], None]]:
    """Another process checks the lock, as a start does: it holds it exclusively until the function is called."""
    (path,) = lock_paths([uuid])
    lock = os.open(path, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield lambda: fcntl.flock(lock, fcntl.LOCK_UN)
    finally:
        os.close(lock)


def test_a_check_by_another_process_is_no_release() -> None:
    """Such a check takes microseconds, unless its process is stopped right then."""
    with looking("GPU-a"), ReleaseLocks(["GPU-b"]):
        assert locks.releases_under_way() == {"GPU-b": (os.getpid(),)}
        assert can_start("GPU-a", "GPU-c")
        assert not can_start("GPU-a", "GPU-b")


def test_a_check_that_proc_does_not_show_is_no_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """proc_locks(5) has no line for a process in another PID namespace."""
    with looking("GPU-a") as done:

        def nobody(_kind: str) -> dict[tuple[int, int], set[int]]:
            done()
            return {}

        monkeypatch.setattr(locks, "_holders", nobody)
        with ReleaseLocks(["GPU-b"]):
            assert locks.releases_under_way() == {"GPU-b": ()}


def test_a_lock_file_may_vanish_at_any_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/run/user/UID is removed when the user's last login ends."""

    def vanish(_kind: str) -> dict[tuple[int, int], set[int]]:
        (folder / "GPU-a.lock").unlink(missing_ok=True)
        return {}

    monkeypatch.setattr(locks, "_holders", vanish)
    with ReleaseLocks(["GPU-a"]):
        assert locks.releases_under_way() == {}


def test_the_folder_of_the_locks_may_vanish_at_any_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_usable_folders", lambda: [folder, folder.with_name("none")])
    assert locks.releases_under_way() == {}
    lock_paths(["GPU-a"])
    with ReleaseLocks(["GPU-a"]):
        assert locks.releases_under_way() == {"GPU-a": (os.getpid(),)}


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.fixture
def failing_flock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes flock(2) fail with this number from now on."""

    def fail(number: int) -> None:
        def flock(_fd: int, how: int) -> None:
            if how != fcntl.LOCK_UN:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(locks.fcntl, "flock", flock)

    return fail


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_holds_no_start_up(
    failing_flock: Callable[[int], None], number: int
) -> None:
    failing_flock(number)
    before = descriptors()
    assert can_start("GPU-a")
    with pytest.raises(OSError, match=os.strerror(number)), ReleaseLocks(["GPU-a"]):
        pass
    assert locks.releases_under_way() == {}
    assert descriptors() == before


def test_a_disk_that_fails_is_an_error(failing_flock: Callable[[int], None]) -> None:
    failing_flock(errno.EIO)
    before = descriptors()
    for ask in (lambda: can_start("GPU-a"), ReleaseLocks(["GPU-a"]).__enter__, locks.releases_under_way):
        with pytest.raises(OSError, match="Input/output error"):
            ask()
    assert descriptors() == before


def test_a_release_does_not_wait_for_a_start_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_SHARE_LIMIT", 0.01)
    with looking("GPU-a"):
        with ReleaseLocks(["GPU-a"]):
            pass
        assert can_start("GPU-a")


def test_a_release_counts_where_proc_does_not_tell_of_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def refuse(path: Path, *args: str, **options: str) -> str:
        if str(path) == "/proc/locks":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    with ReleaseLocks(["GPU-a"]):
        assert not can_start("GPU-a")
        assert locks.releases_under_way() == {"GPU-a": ()}


def test_a_folder_that_cannot_be_made_is_passed_over(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that is full, or read-only for root too."""
    real = Path.mkdir

    def refuse(path: Path, mode: int = 0o777) -> None:
        if path == folder:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(path, mode)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert lock_paths(["GPU-a"]) == (tmp_path / "user/.vllm-magic-locks/GPU-a.lock",)


@pytest.mark.parametrize("error", [KeyError("uid"), TimeoutError("the look-up takes more than 2 s")])
def test_a_user_without_an_entry_has_no_folder_at_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_uid: int) -> None:
        raise error

    monkeypatch.setattr(locks, "_home", HOME)
    monkeypatch.setattr(locks.lookups, "user", refuse)
    assert locks._candidate_folders()[1:] == [folder]
    assert lock_paths(["GPU-a"]) == (folder / "GPU-a.lock",)


def test_a_lock_file_that_cannot_be_made_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str | Path, flags: int, *mode: int) -> int:
        if str(path).startswith(str(folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *mode)

    monkeypatch.setattr(locks.os, "open", refuse)
    for ask in (lambda: can_start("GPU-a"), ReleaseLocks(["GPU-a"]).__enter__):
        with pytest.raises(OSError, match="No space left on device"):
            ask()
