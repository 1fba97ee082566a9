"""Who has a device file open, told by /proc of real processes."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_gpu import fakegpu

from vllm_magic.gpu.holders import Holders, device_files, holders

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def device(tmp_path: Path) -> str:
    """Return a file that stands for a device; what counts is who has it open."""
    path = tmp_path / "nvidia0"
    path.write_bytes(bytes(mmap.PAGESIZE))
    return str(path)


@contextlib.contextmanager
def running(script: str, *words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a script; yields its process and the line that it prints when it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", f"import mmap, os, sys, time\n{script}", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


def test_the_device_files_of_nvidia_wsl_and_rocm(tmp_path: Path) -> None:
    (tmp_path / "dri").mkdir()
    gpus = [
        "dri/renderD128",
        "dxg",
        "kfd",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "nvidia0",
        "nvidia12",
        "nvidiactl",
    ]
    for name in [*gpus, "dri/card0", "nvidia-modeset", "null"]:
        (tmp_path / name).touch()
    assert device_files(tmp_path) == tuple(str(tmp_path / name) for name in gpus)


def test_a_process_that_has_it_open(device: str) -> None:
    with running("f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()", device) as (
        process,
        _,
    ):
        assert holders([device]).by_pid == {process.pid: (device,)}
        process.kill()
        process.wait()
        assert holders([device]).by_pid == {}


def test_a_process_that_has_it_mapped_and_closed(device: str) -> None:
    script = """
m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), mmap.PAGESIZE)
os.closerange(3, 100)
print("ready", flush=True)
sys.stdin.read()
"""
    with running(script, device) as (process, _):
        assert {link.name for link in Path(f"/proc/{process.pid}/fd").iterdir()} == {"0", "1", "2"}
        assert holders([device]).by_pid == {process.pid: (device,)}


def test_a_process_that_has_it_open_after_it_was_removed(device: str) -> None:
    kept = Path(device).with_name("kept")
    os.link(device, kept)
    with running("f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()", device) as (
        process,
        _,
    ):
        Path(device).unlink()
        os.link(kept, device)
        assert holders([device], pids=[process.pid]).by_pid == {process.pid: (device,)}


def test_a_zombie_leader_whose_thread_lives(device: str) -> None:
    script = """
import ctypes, threading
f = open(sys.argv[1])
def live_on():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][0] != "Z":
        time.sleep(0.01)
    print("leader is a zombie", flush=True)
    time.sleep(600)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with running(script, device) as (process, line):
        assert line == "leader is a zombie\n"
        assert holders([device]).by_pid == {process.pid: (device,)}
        process.kill()
        process.wait()
        assert holders([device]).by_pid == {}


def test_a_forked_child_holds_too(device: str) -> None:
    script = "f = open(sys.argv[1]); child = os.fork()\nif child: print(child, flush=True)\nsys.stdin.read()"
    with running(script, device) as (process, line):
        assert holders([device]).by_pid == {process.pid: (device,), int(line): (device,)}


def test_a_holder_of_fake_vram(tmp_path: Path) -> None:
    root = fakegpu.build(tmp_path, gpus=2)
    files = device_files(root / "dev")
    with fakegpu.holding(root, 1, gpu=1) as holder:
        assert holders(files).by_pid == {holder.pid: (str(root / "dev" / "nvidia1"),)}


def test_a_device_by_any_name(tmp_path: Path) -> None:
    null = Path("/dev/null").stat()
    other = tmp_path / "other"
    try:
        os.mknod(other, stat.S_IFCHR | 0o666, null.st_rdev)
    except PermissionError:
        pytest.skip("only root can make a device node")
    with Path("/dev/null").open() as opened:
        assert opened
        assert holders([str(other)], pids=[os.getpid()]).by_pid == {os.getpid(): (str(other),)}


def test_only_the_given_processes_are_looked_at(device: str) -> None:
    with Path(device).open():
        assert holders([device], pids=[os.getpid()]).by_pid == {os.getpid(): (device,)}
        assert holders([device], pids=[]) == Holders({}, frozenset())
        assert holders([device], pids=[os.getppid()]).by_pid == {}


def test_a_process_that_ended_and_a_file_that_is_not_there(device: str) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert holders([device, device + "-of-no-gpu"], pids=[ended.pid]) == Holders({}, frozenset())


def test_another_users_process_is_unreadable_and_a_kernel_thread_is_not() -> None:
    """Root scans as nobody; others find the processes of root."""
    other = os.getpid() if os.getuid() == 0 else 1
    if Path(f"/proc/{other}").stat().st_uid != 0:
        pytest.skip("there is no process of another user here")
    script = """
from vllm_magic.gpu.holders import holders
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
found = holders(["/dev/null"])
print(*sorted(found.unreadable), flush=True)
"""
    with running(script) as (process, line):
        unreadable = {int(word) for word in line.split()}
    assert process.pid not in unreadable
    assert other in unreadable
    assert unreadable.isdisjoint(kernel_threads())


def kernel_threads() -> set[int]:
    """Return the children of kthreadd, if this PID namespace shows them."""
    kthreadd = Path("/proc/2/comm")
    if not kthreadd.exists() or kthreadd.read_text() != "kthreadd\n":
        return set()
    stats = {int(path.name): path / "stat" for path in Path("/proc").iterdir() if path.name.isdigit()}
    return {
        pid
        for pid, path in stats.items()
        if path.exists() and path.read_text().rpartition(") ")[2].split()[1] == "2"
    }
