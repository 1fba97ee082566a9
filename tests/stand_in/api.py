"""The life of an API server: ready, its engine's death, and the stop that can last for ever."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from . import faults, log, tree
from .handler import Server
from .load import EngineState, Load

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Sequence

    from .engine import Engines
    from .options import Options

_STATS_S = 10.0


@dataclasses.dataclass
class ApiServer:
    """One API server, in the leader or, with `--api-server-count`, in a process of its own."""

    bound: socket.socket
    args: argparse.Namespace
    options: Options
    signals: tree.Signals
    engines: Sequence[int]  # pidfds
    stop_engines: Callable[[], None]

    @functools.cached_property
    def load(self) -> Load:
        """The answers under way."""
        name = (self.args.served_model_name or [self.args.model])[0]
        late = self.options.late_counters
        return Load(name, self.args.max_num_seqs or 256, self.options.token_s, late=late)

    def run(self) -> int:
        """Serve until a signal or the end of an engine; return the exit code."""
        self._announce()  # as uvicorn does, before anybody can hear that it is ready
        server = Server(self.bound, self.args, self.load, self.options, self.engines)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        if log.process == "APIServer":
            faults.phase(self.options, "leader", "ready")
        came = self._watch()
        if came:
            self._shut_down(server, interrupted=signal.SIGINT in came)
        else:
            self._engine_died()
        self._uvicorn("Application shutdown complete.")
        self._uvicorn(f"Finished server process [{os.getpid()}]")
        return 0

    def _announce(self) -> None:
        scheme = "https" if self.args.ssl_certfile else "http"
        log.line(f"Supported tasks: [{self.options.task!r}]", "entry.py:136")
        url = f"{scheme}://{self.args.host or '0.0.0.0'}:{self.args.port}"
        log.line(f"Starting vLLM server on {url}", "entry.py:140")
        self._uvicorn(f"Started server process [{os.getpid()}]")
        self._uvicorn("Waiting for application startup.")
        self._uvicorn("Application startup complete.")

    def _watch(self) -> list[int]:
        """Log statistics until a signal comes or an engine ends; return the signals."""
        before = self.load.total_tokens()
        while True:
            came, dead = self.signals.wait(self.engines, _STATS_S)
            if came or dead:
                return came
            now = self.load.total_tokens()
            if now != before or self.load.running:
                self._log_stats(*((new - old) / _STATS_S for new, old in zip(now, before, strict=True)))
            before = now

    def _log_stats(self, prompt_rate: float, generation_rate: float) -> None:
        log.line(
            f"Engine 000: Avg prompt throughput: {prompt_rate:.1f} tokens/s, Avg generation throughput: "
            f"{generation_rate:.1f} tokens/s, Running: {self.load.running} reqs, Waiting: {self.load.waiting} reqs, "
            f"GPU KV cache usage: {100 * self.load.usage():.1f}%, Prefix cache hit rate: 0.0%",
            "loggers.py:335",
        )

    def _engine_died(self) -> None:
        """/health answers 503 and answers under way end; then the API server goes, with exit code 0 (!)."""
        self.load.end(EngineState.DEAD)
        log.line(
            "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup",
            "core_client.py:817",
            "WARNING",
        )
        log.line(
            "AsyncLLM output_handler failed.\nvllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an "
            "issue. See stack trace (above) for the root cause.",
            "async_llm.py:707",
            "ERROR",
        )
        self.signals.wait(timeout=self.options.dead_exit_s)

    def _shut_down(self, server: Server, *, interrupted: bool) -> None:
        """Stop as vLLM does: the engine first, then wait for the connections, for ever if need be."""
        drain_s = self.args.shutdown_timeout
        is_old = self.options.is_before(21)
        if not is_old:
            log.line("[shutdown] API server: shutdown triggered", "launcher.py:105")
        server.stop()
        if not interrupted:
            interrupted = self._wait_for_answers(drain_s)
        if not is_old:
            how = f"mode={'drain' if drain_s else 'abort'} timeout={drain_s:g}s"
            log.line(f"[shutdown] API server: stopping engine client {how}", "launcher.py:116")
            log.line(f"[shutdown] MPClient: start timeout={drain_s:g}s", "core_client.py:652")
        self.load.end(EngineState.STOPPED)
        self.stop_engines()
        said = ("Shutting down FastAPI HTTP server.", "launcher.py:110")
        log.line(*(said if is_old else ("[shutdown] MPClient: engine manager stopped", "core_client.py:656")))
        self._uvicorn("Shutting down")
        if self.load.running and not interrupted:
            self._uvicorn("Waiting for connections to close. (CTRL+C to force quit)")
            self._wait_for_answers(None)
        self._uvicorn("Waiting for application shutdown.")

    def _wait_for_answers(self, timeout: float | None) -> bool:
        """Wait until no answer is under way, for `timeout` s at most; return whether SIGINT cut that short."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.load.running and (end is None or time.monotonic() < end):
            left = None if end is None else end - time.monotonic()
            came, ended = self.signals.wait([self.load.idle], left)
            if signal.SIGINT in came:
                return True
            if ended:
                os.read(self.load.idle, 4096)
        return False

    def _uvicorn(self, message: str) -> None:
        if self.args.uvicorn_log_level not in ("warning", "error", "critical"):
            log.bare(f"INFO:     {message}")


def run(
    bound: socket.socket, args: argparse.Namespace, options: Options, signals: tree.Signals, engines: Engines
) -> int:
    """Serve from the leader, or from `--api-server-count` processes below it; return the leader's exit code."""
    if args.api_server_count == 1:
        return ApiServer(bound, args, options, signals, engines.pidfds, engines.stop).run()

    def serve() -> None:
        ApiServer(bound, args, options, tree.Signals(), engines.pidfds, lambda: None).run()

    numbers = range(args.api_server_count)
    servers = [tree.spawn(f"APIServer_{number}", serve, log_name=f"ApiServer_{number}") for number in numbers]
    faults.phase(options, "leader", "ready")
    came, _ = signals.wait([*engines.pidfds, *(server.pidfd for server in servers)])
    if not came:
        said = (
            "Exception occurred while running API servers: Engine core process EngineCore died unexpectedly."
        )
        log.line(said, "utils.py:599", "ERROR")
    tree.stop(servers)
    return 0 if came else 1
