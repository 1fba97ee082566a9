"""The errors of calls of the C library."""

from __future__ import annotations

import errno

import pytest

from vllm_magic.linux.libc import LIBC, checked


def test_a_result_is_returned():
    assert checked(LIBC.getpid()) > 0


def test_an_error_has_its_errno():
    with pytest.raises(OSError, match="Bad file descriptor") as error:
        checked(LIBC.close(-1))
    assert error.value.errno == errno.EBADF


def test_an_error_of_a_process_is_of_its_class():
    with pytest.raises(ProcessLookupError):
        checked(LIBC.kill(2**22 + 1, 0))
