"""Tell errors about a file from errors about this process, which has no free descriptor or memory."""

from __future__ import annotations

import errno

SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def check(error: OSError) -> None:
    """Raise the error if no descriptor or memory is free (open(2)): then it does not show that a process is gone.

    Raises:
        OSError: the same error.
    """
    if error.errno in SHORT:
        raise error
