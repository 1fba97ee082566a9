"""The folders of servers on a real file system: they are private, and their paths are short."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_runtime_dir
from records import record

from vllm_magic import ledger
from vllm_magic.guard import record as records
from vllm_magic.ledger import KEPT_LOGS, create, state_folder, state_path
from vllm_magic.linux import files, machine


@pytest.fixture(autouse=True)
def short_folders(home):
    """Remove the TMPDIRs in /tmp after the test, since no guard does."""
    yield
    for folder in home.glob("????????"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"/tmp/vllm-{folder.name}").rmdir()


@pytest.fixture
def open_umask():
    """A umask that removes no permission."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def kept(home: Path, age: int) -> Path:
    """Make the log of a server that ended ``age`` seconds ago."""
    path = home / "logs" / f"old-{age:08x}.vllm-magic.log"
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    os.utime(path, (1_700_000_000 - age,) * 2)
    return path


@pytest.mark.usefixtures("open_umask")
def test_a_folder_is_private(home):
    home.parent.chmod(0o755)
    folder = create("qwen3")
    for path in (home, folder.path, folder.tmp, home / "logs"):
        assert mode(path) == 0o700
    assert folder.path == home / folder.id
    assert folder.log == folder.path / "log"
    assert folder.kept_log == home / "logs" / f"qwen3-{folder.id}.vllm-magic.log"
    assert not folder.log.exists()


def test_every_folder_has_its_own_id(home):
    folders = [create("same") for _ in range(5)]
    assert len({folder.id for folder in folders}) == 5
    assert len({folder.tmp for folder in folders}) == 5


def test_an_id_in_use_is_not_used_again(home, monkeypatch):
    taken = create("first").id
    ids = iter([taken, taken, "0f0f0f0f"])
    monkeypatch.setattr(ledger.secrets, "token_hex", lambda _: next(ids))
    assert create("second").id == "0f0f0f0f"


class TestStateFolder:
    def test_it_is_where_the_variable_says(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_HOME", str(tmp_path / "a" / "b"))
        assert state_folder() == tmp_path / "a" / "b"
        monkeypatch.setenv("VLLM_MAGIC_HOME", "here")
        monkeypatch.chdir(tmp_path)
        assert state_folder() == tmp_path / "here"
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("VLLM_MAGIC_HOME", "~/mine")
        assert state_folder() == tmp_path / "mine"

    def test_without_the_variable_it_is_in_jupyters_runtime_directory(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_HOME", "")
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
        assert state_folder() == tmp_path / "runtime" / "vllm_magic"

    @pytest.mark.parametrize(
        "names",
        [
            (),
            ("XDG_DATA_HOME",),
            ("JUPYTER_DATA_DIR",),
            ("JUPYTER_DATA_DIR", "XDG_DATA_HOME"),
            ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "XDG_DATA_HOME"),
            ("XDG_DATA_HOME", "JUPYTER_PLATFORM_DIRS"),
        ],
    )
    def test_jupyters_runtime_directory_is_where_jupyter_core_says(self, names, tmp_path, monkeypatch):
        for name in ("XDG_DATA_HOME", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_PLATFORM_DIRS"):
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("VLLM_MAGIC_HOME", "")
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in names:
            monkeypatch.setenv(name, str(tmp_path / name))
        assert state_path() == Path(jupyter_runtime_dir(), "vllm_magic")

    def test_a_folder_of_another_user_is_refused(self, home, monkeypatch):
        home.mkdir(mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: home.stat().st_uid + 1)
        with pytest.raises(PermissionError, match=r"belongs to another user.*VLLM_MAGIC_HOME"):
            create("x")
        assert list(home.iterdir()) == []

    @pytest.mark.parametrize("others", [0o755, 0o1777, 0o710])
    def test_a_folder_that_others_can_enter_is_refused_and_not_changed(self, home, others):
        # It may be /tmp: closing it to others would break more than this.
        home.mkdir()
        home.chmod(others)
        with pytest.raises(PermissionError, match=r"chmod 700.*VLLM_MAGIC_HOME"):
            create("x")
        assert mode(home) == others
        assert list(home.iterdir()) == []

    def test_a_link_that_another_user_made_is_not_followed(self, tmp_path, monkeypatch):
        """Neither are links above it: their owner could change their targets."""
        (tmp_path / "mine").mkdir(mode=0o700)
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o1777)
        link = shared / "link"
        link.symlink_to(tmp_path / "mine")
        try:
            os.lchown(link, 65534, 65534)
        except PermissionError:
            pytest.skip("only root can make a link of another user")
        for path in (link, link / "below"):
            monkeypatch.setenv("VLLM_MAGIC_HOME", str(path))
            for look in (state_folder, ledger.entries):
                with pytest.raises(
                    PermissionError, match=rf"{link} is a link that belongs to another user.*VLLM_MAGIC_HOME"
                ):
                    look()
        assert list((tmp_path / "mine").iterdir()) == []

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
    def test_a_folder_that_another_user_put_in_its_place(self, tmp_path, monkeypatch):
        """In a folder in which every user may write. The owner of the new folder shows it."""
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o777)
        monkeypatch.setenv("VLLM_MAGIC_HOME", str(shared / "home"))
        create("x")
        (shared / "home").rename(shared / "taken")
        (shared / "home").mkdir(mode=0o700)
        os.chown(shared / "home", 65534, 65534)
        for look in (lambda: create("x"), ledger.entries):
            with pytest.raises(PermissionError, match=r"belongs to another user.*VLLM_MAGIC_HOME"):
                look()

    def test_folders_of_other_programs_are_ignored(self, home, tmp_path):
        """Even with a name of eight hexadecimal digits, such as a date."""
        state_folder()
        (home / "20240101").mkdir()
        (home / "deadbeef").mkdir()
        (home / "deadbeef" / "log").write_text("of another program")
        (home / "cafecafe").write_text("a file")
        for path in home.iterdir():
            os.utime(path, (1, 1))
        assert ledger.entries() == []
        assert len(list(home.iterdir())) == 3

    def test_a_file_in_its_place(self, home):
        home.write_text("")
        with pytest.raises(OSError, match="home"):
            create("x")

    def test_a_link_to_a_folder_of_this_user(self, home, tmp_path):
        (tmp_path / "large disk").mkdir(mode=0o700)
        home.symlink_to(tmp_path / "large disk")
        assert create("x").path.parent == home


class TestTmp:
    @pytest.mark.parametrize("length", [40, 200])
    def test_a_socket_of_vllm_fits_however_long_the_home_is(self, tmp_path, monkeypatch, length):
        home = tmp_path / ("h" * length)
        monkeypatch.setenv("VLLM_MAGIC_HOME", str(home))
        folder = create("x")
        try:
            assert mode(folder.tmp) == 0o700
            name = folder.tmp / "01234567-89ab-cdef-0123-456789abcdef"  # ipc:// and a UUID
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(name))
            name.unlink()
        finally:
            folder.tmp.rmdir()

    def test_a_short_home_has_it_inside(self, monkeypatch):
        # Not in tmp_path, which is long itself.
        import tempfile

        with tempfile.TemporaryDirectory(dir="/tmp", prefix="h") as short:
            monkeypatch.setenv("VLLM_MAGIC_HOME", short)
            folder = create("x")
            assert folder.tmp == folder.path / "t"


def test_the_place_is_looked_up_once_for_all_entries(home, monkeypatch):
    count, asked = 5, []
    for _ in range(count):
        folder = create("tiny")
        records.write(str(folder.path), record(folder.id))
    here = machine.here

    def ask():
        asked.append(None)
        return here()

    monkeypatch.setattr(machine, "here", ask)
    assert [one.condition for one in ledger.entries()] == [ledger.Condition.OWNED] * count
    assert len(asked) == 1


class TestKeptLogs:
    def test_the_newest_logs_are_kept(self, home):
        state_folder()
        logs = [kept(home, age) for age in range(KEPT_LOGS + 10)]
        folder = create("x")
        folder.kept_log.touch()
        assert [path for path in logs if path.exists()] == logs[: KEPT_LOGS - 1]
        assert len(list((home / "logs").iterdir())) == KEPT_LOGS

    @pytest.mark.parametrize(
        "name",
        [
            "app-{}.log",
            "train-202401{:02}.log",
            "nightly-3f9a61{:02x}.log",
            "{}.vllm-magic.log",
            "x-{:08x}.log",
        ],
    )
    def test_logs_of_other_programs_stay(self, home, name):
        """The variable may name a folder in which other programs keep their logs."""
        state_folder()
        for age in range(KEPT_LOGS + 5):
            kept(home, age)
        others = [home / "logs" / name.format(number) for number in range(60)]
        for path in others:
            path.touch()
            os.utime(path, (1, 1))
        folders = [home / "logs" / f"a-{number:08x}.vllm-magic.log" for number in range(1000, 1002)]
        for path in folders:
            path.mkdir()
            os.utime(path, (1, 1))
        create("x")
        assert all(path.exists() for path in (*others, *folders))
        assert len(list((home / "logs").iterdir())) == len(others) + len(folders) + KEPT_LOGS - 1

    def test_a_name_of_long_letters(self, home):
        """A name of a file has at most 255 bytes, and some file systems take fewer."""
        folder = create("\N{MATHEMATICAL BOLD SMALL A}" * 64)
        assert len(os.fsencode(folder.kept_log.name)) <= 143
        folder.kept_log.touch()

    def test_a_log_that_another_kernel_removes_meanwhile(self, home, monkeypatch):
        state_folder()
        for age in range(KEPT_LOGS + 1):
            kept(home, age)
        real = files.modified

        def removed(path: Path) -> float:
            when = real(path)
            path.unlink()
            return when

        monkeypatch.setattr(files, "modified", removed)
        create("x")
        assert list((home / "logs").iterdir()) == []


def test_a_home_that_belongs_to_another_user(tmp_path, monkeypatch):
    """As in a container whose image was made for uid 1000, and which runs under any other one."""
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 1000, 0)
    monkeypatch.setenv("VLLM_MAGIC_HOME", str(tmp_path / "theirs/state"))
    assert ledger.create("x").path.parent == tmp_path / "theirs/state"


def test_a_working_directory_that_is_gone(home, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert ledger.full_disk() == ""
    assert ledger.entries() == []
