"""A disk that hangs: what waits for it holds up no guard, no stop, no view and no other kernel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import by_hand
import hanging_disk
import pytest
from by_hand import in_time
from records import record

from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.ladder import GUARD_LIMIT
from vllm_magic.guard.protocol import Ended, LaunchRequest, Started
from vllm_magic.linux import address_space, details, memory, pidfd, processes, shared_memory
from vllm_magic.linux.pidfd import readable
from vllm_magic.linux.processes import Identity

READS = {
    "title": (processes.title, ""),
    "environment": (processes.environment, {}),
    "arguments": (details.arguments, []),
    "memory": (memory.used_by, 0),
    "mark": (lambda pid: processes.has_environment(pid, b"A=b"), False),
    "shared memory": (lambda pid: shared_memory.mapped_by([pid]), set()),
}


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A process that waits for a disk with its address space locked, as an engine that maps its model: (identity, disk)."""
    with hanging_disk.locked_process(tmp_path_factory.mktemp("disk")) as found:
        yield found


@pytest.mark.parametrize("read", READS)
def test_what_cannot_be_read_is_not_waited_for(locked, read):
    identity, _ = locked
    function, without = READS[read]
    assert processes.read(identity.pid).state == "S"  # its state does not tell
    assert in_time(lambda: function(identity.pid)) == without


def test_who_cannot_be_read_is_named(locked):
    identity, _ = locked
    with pytest.raises(TimeoutError, match=f"process {identity.pid} cannot be read"):
        in_time(lambda: address_space.read(identity.pid, f"/proc/{identity.pid}/environ"))


@pytest.mark.parametrize("words", [["doctor"], ["ps"], ["gpu"], ["reap"]])
@pytest.mark.usefixtures("locked", "home")
def test_a_view_is_not_held_up(words):
    command = [sys.executable, "-m", "vllm_magic", *words]
    said = subprocess.run(command, capture_output=True, text=True, timeout=by_hand.LIMIT, check=False)
    assert said.stderr == ""


@pytest.mark.usefixtures("locked")
def test_another_server_starts_and_stops(manager, spec, traces):
    server = in_time(lambda: manager.start(spec(), timeout=by_hand.LIMIT).server)
    assert in_time(server.stop).verified
    traces.check()


@pytest.mark.usefixtures("locked")
def test_shared_memory_that_somebody_looks_at_goes_a_moment_later():
    """The maps of the process that hangs cannot be read, but the kernel knows that nobody maps the file."""
    path = Path("/dev/shm", f"psm_looked-at-{os.getpid()}")
    path.touch(mode=0o600)
    status = path.stat()
    wanted = [shared_memory.Segment(status.st_dev, status.st_ino)]
    read = os.open(path, os.O_RDONLY)
    looks = 0

    def look(name: str) -> bool:
        nonlocal looks, read
        looks += 1
        found = is_free(name)
        if looks == 1:
            os.close(read)
        return found

    try:
        with pytest.MonkeyPatch.context() as patch:
            is_free = shared_memory._is_free
            patch.setattr(shared_memory, "_is_free", look)
            assert in_time(lambda: shared_memory.unlink_unmapped(wanted, ())) == [str(path)]
    finally:
        path.unlink(missing_ok=True)
    assert looks == 2


@pytest.mark.usefixtures("locked")
def test_shared_memory_that_may_be_mapped_stays(monkeypatch):
    """Nothing shows whether the process that hangs maps the file."""
    monkeypatch.setattr(shared_memory, "_is_free", lambda _: False)
    path = Path("/dev/shm", f"psm_may-be-mapped-{os.getpid()}")
    path.touch(mode=0o600)
    try:
        status = path.stat()
        wanted = [shared_memory.Segment(status.st_dev, status.st_ino)]
        assert in_time(lambda: shared_memory.unlink_unmapped(wanted, ())) == []
        assert path.exists()
    finally:
        path.unlink(missing_ok=True)


def guarded(folder: Path, *argv: str) -> GuardPair:
    (folder / "t").mkdir(parents=True)
    return GuardPair(
        LaunchRequest(
            argv=list(argv),
            env=dict(os.environ),
            cwd="/",
            tmp=str(folder / "t"),
            folder=str(folder),
            log=str(folder / "log"),
            keep_log=str(folder.with_name("kept.log")),
            locks=[],
            record=record()._asdict(),
        )
    )


def said(pair: GuardPair, kind: type, limit: float = by_hand.LIMIT):
    """Return the first message of this kind."""
    deadline = time.monotonic() + limit
    while readable([pair.fileno()], deadline - time.monotonic()):
        for message in pair.receive() or ():
            if isinstance(message, kind):
                return message
    raise AssertionError(f"no {kind.__name__} in {limit} s")


def test_guards_tell_what_they_cannot_end(locked, tmp_path):
    """Not even SIGKILL ends the leader, whose read the disk has taken and does not answer."""
    _, other = locked
    with hanging_disk.mounted(tmp_path / "disk", other.errors) as disk:
        command = [sys.executable, "-c", hanging_disk.FAULTING, str(disk.file)]
        pair = guarded(tmp_path / "folder", *command)
        leader = Identity(*said(pair, Started).leader)
        assert hanging_disk.is_locked(leader.pid)
        pair.stop(grace=0.5, patience=0.5)
        ended = said(pair, Ended, GUARD_LIMIT)  # later they count as hung
        assert [row[:2] for row in ended.left] == [list(leader)]
        disk.end()
        assert pidfd.wait_for_all({leader}, by_hand.LIMIT) == set()
        pair.close()


def test_what_waits_for_the_disk_ends_with_it(locked):
    """The last test of this file, since it ends the disk."""
    identity, disk = locked
    assert processes.title(identity.pid) == ""
    disk.end()
    by_hand.until(lambda: not address_space._hanging, "a thread still reads the memory of an ended process")
