"""Serve a vLLM model from a notebook cell, and stop it with a proof that its VRAM is back.

In a notebook::

    %load_ext vllm_magic
    server = %vllm start Qwen/Qwen3-0.6B --max-model-len 4096
    %vllm stop

In a program::

    import vllm_magic

    with vllm_magic.serve("Qwen/Qwen3-0.6B", "--max-model-len", "4096") as server:
        print(server.base_url, server.api_key)

The import of this package takes little time: each module is imported when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm_magic.api import attach, fit, serve, servers, start, stop
    from vllm_magic.doctor.new_environment import install
    from vllm_magic.engine.capacity.fit import Fit
    from vllm_magic.errors import (
        ClusterError,
        ClusterUnreachable,
        ExecutableNotFound,
        InstallFailed,
        InvalidOption,
        NameInUse,
        NoChatTemplate,
        NoEstimate,
        NotEnoughMemory,
        NoVllmFits,
        ReleaseFailed,
        RequestFailed,
        ServerFailed,
        ServerNotFound,
        SleepFailed,
        StartFailed,
        StartInterrupted,
        StartTimeout,
        VllmMagicError,
    )
    from vllm_magic.jupyter.panel.singleton import panel
    from vllm_magic.release.result import Proof, Release
    from vllm_magic.server.server import Server, ServerState

__version__ = "0.1.0"

_HOMES = {
    "api": ("attach", "fit", "serve", "servers", "start", "stop"),
    "doctor.new_environment": ("install",),
    "jupyter.panel.singleton": ("panel",),
    "engine.capacity.fit": ("Fit",),
    "server.server": ("Server", "ServerState"),
    "release.result": ("Proof", "Release"),
    "errors": (
        "ClusterError",
        "ClusterUnreachable",
        "ExecutableNotFound",
        "NoVllmFits",
        "InstallFailed",
        "InvalidOption",
        "NameInUse",
        "NoChatTemplate",
        "NoEstimate",
        "NotEnoughMemory",
        "ReleaseFailed",
        "RequestFailed",
        "ServerFailed",
        "ServerNotFound",
        "SleepFailed",
        "StartFailed",
        "StartInterrupted",
        "StartTimeout",
        "VllmMagicError",
    ),
}

_STARTING = ("api", "jupyter.panel.singleton")  # these need a system on which a server can be started

__all__ = [
    "ClusterError",
    "ClusterUnreachable",
    "ExecutableNotFound",
    "Fit",
    "InstallFailed",
    "InvalidOption",
    "NameInUse",
    "NoChatTemplate",
    "NoEstimate",
    "NoVllmFits",
    "NotEnoughMemory",
    "Proof",
    "Release",
    "ReleaseFailed",
    "RequestFailed",
    "Server",
    "ServerFailed",
    "ServerNotFound",
    "ServerState",
    "SleepFailed",
    "StartFailed",
    "StartInterrupted",
    "StartTimeout",
    "VllmMagicError",
    "attach",
    "fit",
    "install",
    "load_ipython_extension",
    "panel",
    "serve",
    "servers",
    "start",
    "stop",
    "unload_ipython_extension",
]


def load_ipython_extension(ipython: Any) -> None:
    """Add the magic ``%vllm``; called by ``%load_ext vllm_magic``.

    Raises:
        VllmMagicError: this system lacks the calls that a release needs (see `linux.support`).
    """
    from vllm_magic.linux import support

    support.check()
    from vllm_magic.jupyter.extension import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Release every server, and remove the magic; called by ``%unload_ext vllm_magic``."""
    from vllm_magic.jupyter.extension import unload

    unload(ipython)


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            if module in _STARTING:
                from vllm_magic.linux import support

                support.check()
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
