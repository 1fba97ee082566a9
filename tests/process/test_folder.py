"""What is removed of a server's private folder at its end, and what is not: other disks, and files that cannot be removed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from by_hand import until

from vllm_magic import cli, ledger
from vllm_magic.gpu.probe import Probe
from vllm_magic.linux.shared_memory import Segment
from vllm_magic.recovery.sweep import sweep

MS_BIND = 4096
MNT_DETACH = 2
KERNEL = """
import sys, vllm_magic
vllm_magic.start("tiny")
print("ready", flush=True); sys.stdin.readline()
"""
STOP = (
    'vllm_magic.servers()["tiny"].stop(grace=0.0)'  # a server that has time removes its shared memory itself
)
DEPTH = 3000  # folders in folders: longer than any path may be

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def mounted(source: Path, target: Path):
    """A bind mount, which has the device of its source; a clearing may move the folder that it is on."""
    if os.getuid() != 0:
        pytest.fail("Only root can mount: run this as root (CI does)")
    source.mkdir(exist_ok=True)
    (source / "precious").write_text("not ours")
    if _libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        yield source / "precious"
    finally:
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            root, where = line.split()[3:5]  # proc_pid_mountinfo(5)
            if root.endswith(str(source)):
                _libc.umount2(os.fsencode(where), MNT_DETACH)


@contextlib.contextmanager
def deep(folder: Path):
    """`DEPTH` folders in folders, with a file in each."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)  # shutil.rmtree, which pytest uses, cannot


@pytest.fixture
def server(manager, spec):
    return manager.start(spec(), timeout=60).server


@pytest.fixture
def tmp(server) -> Path:
    """The server's TMPDIR."""
    return ledger.read_entry(server._run.lifecycle.now.folder.path).folder.tmp


@pytest.mark.parametrize("where", ["m", "a/b/m"])
def test_what_is_mounted_inside_stays(server, tmp, tmp_path, where):
    target = tmp / where
    target.mkdir(parents=True)
    (tmp / "file").touch()
    with mounted(tmp_path / "elsewhere", target) as precious:
        release = server.stop()
        assert release.verified
        assert precious.read_text() == "not ours"
        assert str(tmp) in release.files_left
        assert release.files_left in release.text
        assert not (tmp / "file").exists()
        assert precious.read_text() == "not ours"


def test_reap_says_what_stays_of_a_dead_kernels_server(home, executable, tmp_path, capsys):
    env = {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable}
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as kernel:
        kernel.stdout.readline()
        (entry,) = ledger.entries()
        target = entry.folder.tmp / "m"
        target.mkdir()
        with mounted(tmp_path / "elsewhere", target) as precious:
            kernel.communicate("end\n", timeout=60)
            until(lambda: cli.main(["reap"]) == cli.TO_DO, "it is not swept")
            assert f"cannot be cleared. {target} could not be removed" in capsys.readouterr().out
            assert sweep(Probe()) == []  # a start does not repeat it
            assert precious.read_text() == "not ours"
    assert cli.main(["reap"]) == cli.DONE
    assert not entry.path.exists()
    assert precious.read_text() == "not ours"


def test_a_deep_tree_goes(server, tmp, traces):
    with deep(tmp):
        release = server.stop()
        assert release.verified
        assert release.files_left == ""
        assert not tmp.exists()
        assert ledger.entries() == []
    traces.check()


def test_links_go_and_what_they_point_to_stays(server, tmp, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (tmp / "link").symlink_to(outside)
    (tmp / "folder").mkdir()
    (tmp / "folder" / "link").symlink_to(outside)
    assert server.stop().files_left == ""
    assert (outside / "file").exists()
    assert not tmp.exists()


def test_shared_memory_that_another_program_has_open_is_named_and_goes_later(home, executable, capsys):
    env = {**os.environ, "VLLM_MAGIC_EXECUTABLE": executable}
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL + STOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as kernel:
        kernel.stdout.readline()
        (entry,) = ledger.entries()
        until(lambda: ledger.read_entry(entry.path).record.segments, "its shared memory is not noted")
        noted = {Segment(*one) for one in ledger.read_entry(entry.path).record.segments}
        ours = [path for path in Path("/dev/shm").glob("psm_*") if Segment(*device_and_inode(path)) in noted]
        with ours[0].open("rb"):
            kernel.communicate("end\n", timeout=60)
            until(lambda: cli.main(["reap"]) == cli.TO_DO, "it is not swept")
            said = capsys.readouterr().out
            assert f"{ours[0]} stays, because another program has it open." in said
            assert ours[0].exists()
    assert cli.main(["reap"]) == cli.DONE
    assert not any(path.exists() for path in ours)
    assert not entry.path.exists()


def device_and_inode(path: Path) -> tuple[int, int]:
    """(0, 0) for a file that has vanished: other tests have theirs here."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return 0, 0
