"""The manager of this kernel, for code that must not load it: its import is slow, and may never be needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm_magic.manager.manager import Manager


def loaded_manager() -> Manager | None:
    """Return the manager of this kernel; None if it is not loaded. Then this kernel has no servers."""
    if "vllm_magic.manager.manager" not in sys.modules:
        return None
    from vllm_magic.manager.manager import manager

    return manager
