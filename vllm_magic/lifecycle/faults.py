"""An unexpected error, as text."""

from __future__ import annotations

import errno
import os

from vllm_magic.errors import VllmMagicError, reason
from vllm_magic.linux import shortage
from vllm_magic.masking import mask


def text(error: Exception) -> str:
    """Return an unexpected error as text for the user.

    A `VllmMagicError` is no fault: its own text is for users. Neither is a shortage of descriptors or memory.
    """
    if isinstance(error, VllmMagicError):
        return str(error)
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, OSError) and error.errno in shortage.SHORT:
        return (
            f"This kernel is short of memory or of file descriptors ({reason(error)}). "
            "Free some: close files, delete variables, or restart the kernel."
        )
    return f"A fault of vllm_magic: {mask(f'{type(error).__name__}: {error}')}. Please report it."
