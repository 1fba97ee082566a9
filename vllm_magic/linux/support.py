"""Check that this system has the pidfd calls that every release needs."""

from __future__ import annotations

import errno
import os
import sys

from vllm_magic.errors import VllmMagicError
from vllm_magic.linux import pidfd_calls

# The errors of a missing call, and of a sandbox that forbids it (seccomp(2)).
_MISSING = (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)


def check() -> None:
    """Check that processes can be ended by pidfd.

    Raises:
        VllmMagicError: they cannot.
    """
    missing = _what_is_missing()
    if missing:
        raise VllmMagicError(
            f"vllm_magic needs Linux 5.3 or newer (or WSL 2), for pidfd_open(2) and pidfd_send_signal(2), which "
            f"send a signal to exactly one process. {missing}"
        )


def _what_is_missing() -> str:
    if sys.platform != "linux":
        return f"This is {sys.platform}: run the kernel on a Linux machine."
    try:
        fd = pidfd_calls.open_pid(os.getpid())
        try:
            pidfd_calls.send_to(fd, 0)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _MISSING:
            release = os.uname().release
            return (
                f"This Linux {release}, or a sandbox on it, lacks these calls ({error.strerror}): "
                "run the kernel on a newer system."
            )
    return ""  # also if no file descriptor is free: the start reports that
