"""The lock of a GPU that a guard holds during a release, while another process checks the lock."""

from __future__ import annotations

import fcntl
import os
import threading
import time

import pytest

from vllm_magic.guard import base


@pytest.fixture
def taken(tmp_path):
    """The path and the descriptor of a lock file that is locked exclusively, as by a start that checks it."""
    path = tmp_path / "GPU-a.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield str(path), fd
    os.close(fd)


def test_a_guard_takes_the_lock_after_a_check_of_it_has_ended(taken, monkeypatch):
    path, fd = taken
    monkeypatch.setattr(base, "LOCK_LIMIT", 60.0)
    done = threading.Timer(0.05, fcntl.flock, (fd, fcntl.LOCK_UN))
    done.start()
    with base._try_shared_lock(path), pytest.raises(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done.join()
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_is_never_free_delays_no_release(taken):
    path, _ = taken
    began = time.monotonic()
    with base._try_shared_lock(path):
        assert time.monotonic() - began < 50 * base.LOCK_LIMIT
