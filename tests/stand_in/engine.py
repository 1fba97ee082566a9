"""The processes below the API server: engines, their workers, and the coordinator of data parallelism."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import TYPE_CHECKING

from . import failures, faults, leftovers, log, tree, vram

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .options import Options


@dataclasses.dataclass
class Engines:
    """What the leader started, and the read ends of the pipes on which each engine says that it is ready."""

    children: list[tree.Child]
    ready: list[int]

    def stop(self) -> None:
        """End all of them; a second call does nothing."""
        children, self.children = self.children, []
        tree.stop(children)

    @property
    def pidfds(self) -> list[int]:
        """One readable descriptor for each process that ended."""
        return [child.pidfd for child in self.children]


def start(args: argparse.Namespace, options: Options, close: Sequence[int]) -> Engines:
    """Start the engines; they close the descriptors `close` (vLLM spawns them, so they inherit none)."""
    engines = Engines([], [])
    ranks = args.data_parallel_size
    if ranks > 1:
        engines.children.append(tree.spawn("DPCoordinator", lambda: _coordinate(close)))
    for rank in range(ranks):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        name = f"EngineCore_DP{rank}" if ranks > 1 else "EngineCore"
        body = _Engine(args, options, rank, writer, close).run
        deaf = options.ignore_sigterm_engine
        engines.children.append(tree.spawn(name, body, ignore_sigterm=deaf))
        engines.ready.append(reader)
        os.close(writer)
    return engines


def _coordinate(close: Sequence[int]) -> None:
    for descriptor in close:
        os.close(descriptor)
    while True:
        signal.pause()


@dataclasses.dataclass
class _Engine:
    args: argparse.Namespace
    options: Options
    rank: int
    ready: int
    close: Sequence[int]
    workers: list[tree.Child] = dataclasses.field(default_factory=list)
    helpers: list[tree.Child] = dataclasses.field(default_factory=list)

    def run(self) -> None:
        """Initialise, say "ready", and live until a signal or the end of a worker."""
        for descriptor in self.close:
            os.close(descriptor)
        if self.options.setpgrp:
            os.setpgid(0, 0)
        signal.signal(signal.SIGUSR2, lambda *_: vram.sleep())
        segments = []
        try:
            faults.phase(self.options, "engine", "import")
            self._initialise()
            segments = leftovers.segments(2)
            leftovers.sockets(1)
            self._start_workers()
            self._warm_up()
            os.write(self.ready, b"READY")
            faults.phase(self.options, "engine", "ready")
            self._watch_workers()
        except failures.Failed:
            raise SystemExit(1) from None
        finally:
            self._tear_down()
            leftovers.unlink(segments)

    def _initialise(self) -> None:
        config = f"model={self.args.model!r}, tensor_parallel_size={self.args.tensor_parallel_size}"
        log.line(f"Initializing a V1 LLM engine (v0.32.0) with config: {config}", "core.py:133")
        faults.phase(self.options, "engine", "init")
        time.sleep(self.options.init_s)
        leftovers.weights(self.options.maps)
        faults.hang(self.options, "init")
        failures.check(self.options.fail, "engine", self.args.model)

    def _start_workers(self) -> None:
        world = self.args.tensor_parallel_size * self.args.pipeline_parallel_size
        pipes = []
        for rank in range(world):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            worker = _Worker(self.args, self.options, rank, world, self.rank * world + rank, writer)
            deaf = self.options.ignore_sigterm_engine
            self.workers.append(tree.spawn(worker.name, worker.run, ignore_sigterm=deaf))
            os.close(writer)
            pipes.append(reader)
        self.helpers = faults.start_children(self.options)
        if world == 1:  # on CUDA a single rank runs inside the EngineCore
            vram.hold(self.options.vram, self.rank, self.options.vram_teardown_s)
        for reader in pipes:
            if os.read(reader, 8) != b"READY":
                self._worker_died(self.workers[pipes.index(reader)])

    def _warm_up(self) -> None:
        time.sleep(self.options.warmup_s)
        took = f"{self.options.warmup_s:.2f}"
        log.line("Available KV cache memory: 1.00 GiB", "gpu_worker.py:760")
        length = self.args.max_model_len or 4096
        log.line(
            f"GPU KV cache size: 37,440 tokens, Maximum concurrency for {length:,} tokens per request: "
            f"{37440 / length:.2f}x",
            "kv_cache_utils.py:2327",
        )
        if not self.args.enforce_eager:
            self._compile_and_capture()
        log.line(f"init engine (profile, create kv cache, warmup model) took {took} s", "core.py:402")

    def _compile_and_capture(self) -> None:
        log.line("Dynamo bytecode transform time: 0.01 s", "backends.py:1167")
        log.line("torch.compile took 0.02 s in total", "monitor.py:20")
        for done in (1, 2, 3):
            bar = "#" * (3 * done) + " " * (9 - 3 * done)
            end = "\n" if done == 3 else "\r"
            percent = round(100 * done / 3)
            log.write(
                2, f"Capturing CUDA graphs (decode, FULL): {percent:3d}%|{bar}| {done}/3 [00:00<00:00]{end}"
            )
        log.line("Graph capturing finished in 0 secs, took 0.02 GiB", "gpu_model_runner.py:6582")

    def _watch_workers(self) -> None:
        ended = tree.until_readable([worker.pidfd for worker in self.workers])
        self._worker_died(next(worker for worker in self.workers if worker.pidfd in ended))

    def _worker_died(self, worker: tree.Child) -> None:
        self.workers.remove(worker)
        code = worker.reap()
        how = "" if self.options.is_before(25) else f" (exit code: {code})"
        log.line(
            f"Worker proc {worker.name} died unexpectedly{how}, shutting down executor.",
            "multiproc_executor.py:278",
            "ERROR",
        )
        raise failures.Failed

    def _tear_down(self) -> None:
        log.line("[shutdown] EngineCore: start mode=abort timeout=0s", "core.py:1333")
        time.sleep(self.options.exit_delay_s)
        log.line("[shutdown] Executor: terminating workers", "multiproc_executor.py:401")
        tree.stop([*self.workers, *self.helpers])
        log.line("[shutdown] EngineCore: exiting busy loop", "core.py:1227")


@dataclasses.dataclass
class _Worker:
    args: argparse.Namespace
    options: Options
    rank: int
    world: int
    gpu_rank: int
    ready: int

    @property
    def name(self) -> str:
        """The process title, as multiproc_executor.py's setup_proc_title_and_log_prefix builds it."""
        parts = ["Worker"]
        tensor = self.args.tensor_parallel_size
        if self.args.data_parallel_size > 1:
            parts.append(f"DP{self.gpu_rank // self.world}")
        if self.args.pipeline_parallel_size > 1:
            parts.append(f"PP{self.rank // tensor}")
        if tensor > 1:
            parts.append(f"TP{self.rank % tensor}")
        return "_".join(parts)

    def run(self) -> None:
        """Load, say "ready", and live until a signal or the end of the engine."""
        faults.phase(self.options, "worker", "init")
        log.line(
            f"world_size={self.world} rank={self.rank} local_rank={self.rank} "
            "distributed_init_method=tcp://127.0.0.1:0 backend=nccl",
            "parallel_state.py:1906",
        )
        if self.world > 1:
            vram.hold(self.options.vram, self.gpu_rank, self.options.vram_teardown_s)
        self._load()
        os.write(self.ready, b"READY")
        faults.phase(self.options, "worker", "ready")
        tree.end_with_parent()
        log.line("Parent process exited, terminating worker", "multiproc_executor.py:790")

    def _load(self) -> None:
        log.line(f"Starting to load model {self.args.model}...", "gpu_model_runner.py:5040")
        faults.hang(self.options, "load")
        log.line("Filesystem type for checkpoints: EXT4. Checkpoint size: 0.50 GiB.", "weight_utils.py:1108")
        for done in (0, 1, 2):
            time.sleep(self.options.load_s / 3)
            bar = f"Loading safetensors checkpoint shards: {50 * done:3d}% Completed | {done}/2 [00:00<00:00, 9.00it/s]"
            log.bare(bar)
        log.line(f"Loading weights took {self.options.load_s:.2f} seconds", "default_loader.py:501")
        log.line(
            f"Model loading took 0.50 GiB memory and {self.options.load_s:.2f} seconds",
            "gpu_model_runner.py:5150",
        )


def await_ready(engines: Engines, signals: tree.Signals) -> None:
    """Wait until each engine is ready, with vLLM's treatment of signals (its first SIGTERM is swallowed).

    Raises:
        failures.Failed: an engine ended before it was ready, or SIGINT came.
        KeyboardInterrupt: a second SIGTERM came.
    """
    terminated = 0
    pending = list(engines.ready)
    while pending:
        came, readable = signals.wait([*pending, *engines.pidfds])
        terminated += came.count(signal.SIGTERM)
        if terminated > 1:
            raise KeyboardInterrupt
        if signal.SIGINT in came:
            raise failures.Failed("KeyboardInterrupt")
        pending = [reader for reader in pending if reader not in readable or not os.read(reader, 8)]
        if pending and not set(engines.pidfds).isdisjoint(readable):
            if terminated:  # SIGTERM to the group: vLLM's leader does not notice, and hangs
                signals.wait()
                raise KeyboardInterrupt
            raise failures.Failed(_initialisation_failed(engines))


def _initialisation_failed(engines: Engines) -> str:
    codes = {}
    for child in list(engines.children):
        if tree.until_readable([child.pidfd], 0):
            codes[child.name] = child.reap()
            engines.children.remove(child)
    return (
        f"RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {codes}"
    )
