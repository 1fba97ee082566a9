"""Without a free descriptor or memory, no process counts as gone, and no lock as free."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from vllm_magic import ledger
from vllm_magic.linux import processes, shared_memory, shortage
from vllm_magic.linux.processes import own_identity


@pytest.fixture
def none_free():
    """No descriptor is free in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


CALLS = {
    "read": lambda me: processes.read(me.pid),
    "is_alive": processes.is_alive,
    "table": lambda _: processes.table(),
    "children": lambda me: processes.children(me.pid),
    "hidden_children": lambda me: processes.hidden_children(me.pid),
    "environment": lambda me: processes.environment(me.pid),
    "open_files": lambda me: processes.open_files(me.pid),
    "hides_files": lambda me: processes.hides_files(me.pid),
    "mapped_by": lambda me: shared_memory.mapped_by([me.pid]),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_taken_for_gone(none_free, name):
    me = processes.Identity(os.getpid(), 1)
    with pytest.raises(OSError, match="Too many open files") as raised:
        CALLS[name](me)
    assert raised.value.errno == errno.EMFILE


def test_a_lock_is_not_taken_for_free(tmp_path, request):
    (tmp_path / "alive").touch()
    assert not ledger._is_locked(tmp_path)
    request.getfixturevalue("none_free")
    with pytest.raises(OSError, match="Too many open files"):
        ledger._is_locked(tmp_path)


def test_text_to_be_shown_is_empty(none_free):
    assert processes.title(os.getpid()) == ""


def test_any_other_error_is_about_the_file():
    shortage.check(FileNotFoundError(errno.ENOENT, ""))
    with pytest.raises(OSError, match="memory"):
        shortage.check(OSError(errno.ENOMEM, "Cannot allocate memory"))


def test_afterwards_it_is_seen_again():
    assert processes.is_alive(own_identity())
