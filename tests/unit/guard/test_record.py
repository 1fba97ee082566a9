"""The lock that says "the guards live", where somebody else has a copy of its descriptor, as a forked child has."""

from __future__ import annotations

import os

from vllm_magic.guard import record


def test_a_lock_that_is_given_back(tmp_path):
    fd = record.hold_lock(str(tmp_path))
    copy = os.dup(fd)
    try:
        assert record.is_locked(str(tmp_path))
        record.drop_lock(fd)
        assert not record.is_locked(str(tmp_path))
    finally:
        os.close(copy)
