"""The lock that shows that a guard lives, with a copy of its descriptor in another process."""

from __future__ import annotations

import os

from vllm_magic.guard import record


def test_a_released_lock_is_free_although_a_copy_of_the_descriptor_is_open(tmp_path):
    fd = record.hold_lock(str(tmp_path))
    copy = os.dup(fd)
    try:
        assert record.is_locked(str(tmp_path))
        record.drop_lock(fd)
        assert not record.is_locked(str(tmp_path))
    finally:
        os.close(copy)
