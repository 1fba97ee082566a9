"""A shell of IPython in the process of the tests, which leaves no thread and no open file there."""

from __future__ import annotations

import atexit
from contextlib import contextmanager
from typing import TYPE_CHECKING

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def a_shell() -> Iterator[InteractiveShell]:
    """Without a history, which is a thread and two descriptors.

    IPython would tidy each shell up when the process ends: 0.2 s for each.
    """
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        yield shell
    finally:
        atexit.unregister(shell.atexit_operations)
