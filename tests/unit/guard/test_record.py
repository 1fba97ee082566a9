"""The record on disk, and the lock that shows that a guard lives."""

from __future__ import annotations

import os

from vllm_magic.guard import record
from vllm_magic.guard.record import Phase, Record


def test_a_released_lock_is_free_although_a_copy_of_the_descriptor_is_open(tmp_path):
    fd = record.hold_lock(str(tmp_path))
    copy = os.dup(fd)
    try:
        assert record.is_locked(str(tmp_path))
        record.drop_lock(fd)
        assert not record.is_locked(str(tmp_path))
    finally:
        os.close(copy)


def test_a_guard_does_not_wait_until_the_disk_has_the_record(tmp_path, monkeypatch):
    """A stop that comes meanwhile would wait too."""
    waited: list[int] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, waited.append)
    written = Record(
        id="3f9a",
        name="tiny",
        model="tiny",
        args=[],
        url="http://127.0.0.1:8000/v1",
        port=8000,
        gpus=[],
        chosen=False,
        baseline=[],
        phase=Phase.STARTING,
        since=1.0,
        place=["boot", "machine", "pid:[1]", 0],
        kernel=[1, 2],
    )
    record.write(str(tmp_path), written)
    assert not waited
    assert record.read(str(tmp_path)).name == "tiny"
