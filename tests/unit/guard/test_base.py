"""The lock of a GPU that a guard holds during a release, where another process looks at it at that very moment."""

from __future__ import annotations

import fcntl
import os
import threading
import time

import pytest

from vllm_magic.guard import base


@pytest.fixture
def taken(tmp_path):
    """A lock file whose exclusive lock is held, as by a start that looks; the path and the descriptor."""
    path = tmp_path / "GPU-a.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield str(path), fd
    os.close(fd)


def test_a_look_does_not_keep_a_guard_from_its_lock(taken, monkeypatch):
    path, fd = taken
    monkeypatch.setattr(base, "LOCK_LIMIT", 60.0)
    done = threading.Timer(0.05, fcntl.flock, (fd, fcntl.LOCK_UN))
    done.start()
    with base._shared_lock(path), pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done.join()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_look_that_does_not_end_delays_no_release(taken):
    path, _ = taken
    began = time.monotonic()
    with base._shared_lock(path):
        assert time.monotonic() - began < 50 * base.LOCK_LIMIT
