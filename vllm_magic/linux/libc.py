"""The C library, for system calls without a function in the standard library."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    """Return the result of a function of `LIBC`; a negative result stands for an error.

    Raises:
        OSError: the result is negative; the error has the errno of the call.
    """
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
