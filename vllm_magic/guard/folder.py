"""Clearing the server's private folder at the end, with its log kept."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.guard.protocol import Order


def clear(order: Order) -> None:
    """Move the log to where it is kept, and remove the folders with all that the server left in them."""
    with contextlib.suppress(OSError):
        os.replace(order.log, order.keep_log)
    for folder in (order.tmp, order.folder):
        _remove(folder)


def _remove(root: str) -> None:
    # os.walk does not follow links: a link is removed, never what it points to.
    for base, folders, files in os.walk(root, topdown=False):
        for name in files + folders:
            path = os.path.join(base, name)
            remove = os.rmdir if name in folders and not os.path.islink(path) else os.unlink
            with contextlib.suppress(OSError):
                remove(path)
    with contextlib.suppress(OSError):
        os.rmdir(root)
