"""A shell of IPython in the process of the tests, which leaves nothing there."""

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
    """Without a history, which is a thread and two descriptors; nothing keeps it once it is over.

    IPython holds each shell until the process ends, and then tidies up all of them: 0.2 s for each.
    """
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        yield shell
    finally:
        atexit.unregister(shell.atexit_operations)
