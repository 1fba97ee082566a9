"""The states of a server; see `status`."""

from vllm_magic.lifecycle.lifecycle import Lifecycle
from vllm_magic.lifecycle.status import LifecycleStatus, ServerState

__all__ = ["Lifecycle", "LifecycleStatus", "ServerState"]
