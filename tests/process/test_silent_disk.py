"""A state folder on a disk that does not answer: each call ends with a line that says so, and servers are released."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import by_hand
import pytest
import silent_disk
from by_hand import in_time

from vllm_magic import ledger
from vllm_magic.errors import StartFailed
from vllm_magic.linux import pidfd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from silent_disk import SilentDisk

LIMIT = 40.0  # seconds; what waits for the disk waits for ever
NO_ANSWER = "the disk of .* does not answer"


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Iterator[SilentDisk]:
    """A disk for the state folder, which answers at first."""
    with silent_disk.mounted(tmp_path / "disk") as mounted:
        monkeypatch.setenv("VLLM_MAGIC_HOME", str(mounted.path / "home"))
        yield mounted
        mounted.answer()


@pytest.fixture
def home(disk) -> Path:
    return disk.path / "home"


def terminal(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command. One that waits for the disk is left behind: it could not be waited for."""
    command = [sys.executable, "-m", "vllm_magic", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = process.communicate(timeout=LIMIT)
    return subprocess.CompletedProcess(command, process.returncode, *said)


@pytest.mark.parametrize("words", [["ps"], ["reap"], ["doctor"], ["stop", "tiny"], ["gpu"], ["logs", "tiny"]])
def test_a_command_says_that_the_disk_does_not_answer(disk, words):
    disk.be_silent()
    said = terminal(*words)
    assert "Traceback" not in said.stderr
    if words != ["gpu"]:
        # The doctor breaks the lines.
        assert f"he disk of {disk.path / 'home'} does not answer" in " ".join(
            (said.stdout + said.stderr).split()
        )


def test_the_magics_say_so(disk, shell, capsys):
    in_time(lambda: shell.run_line_magic("vllm", "status"))
    disk.be_silent()
    for line in ("status", "doctor", "ps", "start tiny", "reap"):
        in_time(lambda line=line: shell.run_cell(f"%vllm {line}"))
    said = capsys.readouterr()
    assert "does not answer" in said.out + said.err
    assert "Traceback" not in said.out + said.err
    disk.answer()


def test_a_start_is_refused(disk, manager, spec):
    ledger.state_folder()
    disk.be_silent()
    with pytest.raises(StartFailed, match=NO_ANSWER):
        in_time(lambda: manager.start(spec(), timeout=LIMIT))


@pytest.mark.parametrize("place", ["model", "cache"])
def test_a_model_on_such_a_disk_is_refused(disk, tmp_path, monkeypatch, manager, spec, place):
    """The other checks would wait for the disk in the cell, and not even Interrupt would end that."""
    monkeypatch.setenv("VLLM_MAGIC_HOME", str(tmp_path / "home"))
    model = disk.path / "models" / "llama"
    model.mkdir(parents=True)
    if place == "cache":
        monkeypatch.setenv("HF_HUB_CACHE", str(disk.path / "hub"))
    disk.be_silent()
    name = str(model) if place == "model" else "some/llama"
    with pytest.raises(StartFailed, match=NO_ANSWER):
        in_time(lambda: manager.start(spec(model=name), timeout=LIMIT))


def test_a_server_is_released_and_its_folder_is_named(disk, manager, spec):
    server = manager.start(spec(), timeout=LIMIT).server
    folder = server._run.lifecycle.now.folder.path
    disk.be_silent()
    release = in_time(server.stop)
    assert release.verified
    assert release.files_left == f"{folder} could not be removed, because its disk does not answer"
    disk.answer()
    by_hand.until(lambda: terminal("reap").returncode == 0, "the disk does not answer")
    assert not folder.exists()


KERNEL = """
import sys, threading, vllm_magic
server = vllm_magic.start("tiny")
print(server.pid, flush=True)
sys.stdin.readline()
threading.Thread(target=vllm_magic.servers()["tiny"].log).start()
print("asked", flush=True)
sys.stdin.read()
"""


def test_a_server_ends_with_a_kernel_that_asks_the_disk(disk, executable):
    """Not the kernel waits for the disk, but another process: the kernel can be killed, and the guards hear of it."""
    env = {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable}
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as kernel:
        assert kernel.stdout
        assert kernel.stdin
        leader = by_hand.identity(int(kernel.stdout.readline()))
        disk.be_silent()
        kernel.stdin.write("\n")
        kernel.stdin.flush()
        assert kernel.stdout.readline() == "asked\n"
        kernel.send_signal(signal.SIGKILL)
        kernel.wait(LIMIT)
        assert pidfd.wait_for_all({leader}, LIMIT) == set()
