"""Starts from a spare, and restarts with one, beside the bare command."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.raw import READY_LIMIT, RawServer
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.manager.manager import manager
from vllm_magic.provisioning.base import StartKind
from vllm_magic.provisioning.standby_pool import StandbyMode

if TYPE_CHECKING:
    from bench.target import Target
    from vllm_magic.server.server import Server

FORK_ON_CPU = Path(__file__).resolve().parents[1] / "tests" / "real" / "fork_plugin"
METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
LOOK = 0.1  # seconds between looks at whether the spare is warm
SETTLE = 2.0  # seconds after ready in which a server becomes idle
STOP_LIMIT = 60.0


@dataclass(frozen=True)
class Pair:
    """Seconds of ours and of the bare command."""

    start: float
    raw_start: float
    restart: float
    raw_restart: float


def pair(target: Target, method: str) -> Pair:
    """One start and one restart of each side.

    A start of ours finds a spare that is warm, and a restart, right after a stop of the server that is there, too.

    Args:
        target: what to serve.
        method: "spawn" or "fork" for the engine's processes; on a CPU that fork is forced, by a plugin for vLLM.

    Raises:
        RuntimeError: a start of ours was cold.
    """
    forced = method == "fork" and not target.on_gpu
    env = {**target.env, METHOD: method} | ({"PYTHONPATH": str(FORK_ON_CPU)} if forced else {})
    manager.spares.set_mode(StandbyMode.ON)
    try:
        _have_spare(target, env)
        start, server = _start(target, env)
        _have_spare(target, env)
        began = time.monotonic()
        server.stop()
        _, server = _start(target, env)
        restart = time.monotonic() - began
        server.stop()
    finally:
        manager.spares.set_mode(StandbyMode.OFF)
        manager.stop_all(grace=0.0)
        manager.spares.wait_gone()
    raw_start, raw_stop = time_raw(target)
    return Pair(start, raw_start, restart, raw_stop + raw_start)


def _have_spare(target: Target, env: dict[str, str]) -> None:
    manager.expect(_spec(target, env))
    pause, deadline = threading.Event(), time.monotonic() + READY_LIMIT
    while not manager.spares.status().warm:
        if time.monotonic() >= deadline:
            raise RuntimeError(f"no spare: {manager.spares.status()}")
        pause.wait(LOOK)
    pause.wait(SETTLE)


def _start(target: Target, env: dict[str, str]) -> tuple[float, Server]:
    began = time.monotonic()
    server = manager.start(_spec(target, env)).server
    took = time.monotonic() - began
    if server.start_kind is not StartKind.WARM:
        raise RuntimeError(f"a start was cold: {server.cold_because}")
    return took, server


def _spec(target: Target, env: dict[str, str]) -> ServerSpec:
    return ServerSpec(
        target.model, target.flags, "bench", executable=target.executable, env=tuple(sorted(env.items()))
    )


def time_raw(target: Target) -> tuple[float, float]:
    """Seconds of the bare command to be ready, and to stop when idle."""
    began = time.monotonic()
    with RawServer(target) as server:
        server.wait_until_ready()
        started = time.monotonic() - began
        time.sleep(SETTLE)
        stopped = server.stop(STOP_LIMIT)
    if stopped is None:
        raise RuntimeError(f"an idle bare server did not end within {STOP_LIMIT:g} s of SIGTERM")
    return started, stopped
