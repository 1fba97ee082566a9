"""Functions that use a disk which may not answer are called in another process, and not waited for."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import by_hand
import pytest
import silent_disk

from vllm_magic.linux import disk as disks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from silent_disk import SilentDisk

NO_ANSWER = "the disk of .* does not answer"


@pytest.fixture
def disk(tmp_path) -> Iterator[SilentDisk]:
    """A disk that answers at first."""
    with silent_disk.mounted(tmp_path / "disk") as mounted:
        yield mounted
        mounted.answer()


def test_a_server_starts_and_stops_without_its_cache(tmp_path, monkeypatch, spec, traces):
    from vllm_magic.manager.manager import Manager

    monkeypatch.setenv("VLLM_MAGIC_HOME", str(tmp_path / "home"))
    with silent_disk.mounted(tmp_path / "other") as other:
        monkeypatch.setenv("VLLM_MAGIC_CACHE", str(other.path / "cache"))
        other.be_silent()
        manager = Manager()
        server = manager.start(spec(), timeout=by_hand.LIMIT).server
        assert server.stop().verified
        manager.close()
    traces.check()


def test_a_disk_of_this_machine_is_used_directly(tmp_path):
    assert not disks.may_hang(tmp_path / "not made")
    (tmp_path / "link").symlink_to(tmp_path)
    assert not disks.may_hang(tmp_path / "link" / "not made")


def test_the_types_of_old_paths_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "KNOWN_FOR", 0.0)
    for number in range(10):
        disks.may_hang(tmp_path / str(number))
    assert len(disks._kinds) <= 1 + len([one for one in disks._kinds if str(tmp_path) not in one])


def test_a_link_to_a_disk_that_may_hang_is_followed(disk, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(disk.path)
    disk.be_silent()
    assert disks.may_hang(link / "home")


def test_errors_and_results_arrive(disk):
    (disk.path / "file").write_text("text")
    assert disks.call(disk.path, os.listdir, disk.path) == ["file"]
    with pytest.raises(FileNotFoundError) as caught:
        disks.call(disk.path, os.listdir, disk.path / "none")
    assert caught.value.filename == str(disk.path / "none")


def test_a_process_that_was_killed_is_replaced(disk):
    disks.call(disk.path, os.listdir, disk.path)
    os.kill(disks._idle[-1]._process.pid, signal.SIGKILL)
    assert disks.call(disk.path, os.listdir, disk.path) == []


def test_what_is_silent_is_not_waited_for_again(disk):
    disk.be_silent()
    with pytest.raises(TimeoutError, match=NO_ANSWER):
        disks.call(disk.path, os.listdir, disk.path, limit=1.0)
    with pytest.raises(TimeoutError, match=NO_ANSWER):
        disks.call(disk.path / "home", os.listdir, disk.path, limit=by_hand.LIMIT * 100)
    disk.answer()
    by_hand.until(lambda: not disks._is_silent(str(disk.path)), "it still counts as silent")
    assert disks.call(disk.path, os.listdir, disk.path) == []
