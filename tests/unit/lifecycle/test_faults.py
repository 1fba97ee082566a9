"""The text of an unexpected error."""

from __future__ import annotations

import errno

import pytest

from vllm_magic.errors import VllmMagicError
from vllm_magic.lifecycle import faults


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (VllmMagicError("It is gone."), "It is gone."),
        (
            RuntimeError("on purpose"),
            "A fault of vllm_magic: RuntimeError: on purpose. Please report it.",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            (
                "This kernel is short of memory or of file descriptors (Too many open files). "
                "Free some: close files, delete variables, or restart the kernel."
            ),
        ),
        (
            MemoryError(),
            (
                "This kernel is short of memory or of file descriptors (Cannot allocate memory). "
                "Free some: close files, delete variables, or restart the kernel."
            ),
        ),
    ],
)
def test_a_shortage_is_no_fault(error, text):
    assert faults.text(error) == text
