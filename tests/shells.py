"""An IPython shell in the process of the tests, which leaves no thread and no open file behind."""

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
    """Yield a shell without a history, which would be a thread and two descriptors.

    The shell's exit handler is removed: IPython would take 0.2 s for each shell when the process ends.
    """
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        yield shell
    finally:
        atexit.unregister(shell.atexit_operations)
