"""The leader: import, command line, port, engines, API server; the phases of `vllm serve` in their order."""

from __future__ import annotations

import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

from . import api, cli, engine, failures, faults, leftovers, log, tree
from .options import Options, from_environment

if TYPE_CHECKING:
    import argparse


def main() -> int:
    """Run `vllm` with this process's arguments; return the exit code."""
    options = from_environment()
    log.epoch = options.log_epoch
    log.coloured = options.is_before(16)
    tree.limit_life()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # for faults.hang, in every process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_sigterm else signal.SIG_DFL)
    faults.start_log_faults(options)
    faults.phase(options, "leader", "import")
    time.sleep(options.import_s)
    faults.hang(options, "import")
    try:
        args = cli.parse(sys.argv[1:])
        return _serve(args, options)
    except (failures.Failed, OSError) as error:
        failures.log_crash(error)
        return 1


def _serve(args: argparse.Namespace, options: Options) -> int:
    log.line(f"\n ▄▄ ▄█ █  version {options.version}\n  █▄█▀ █  model   {args.model}\n", "api_utils.py:347")
    log.line(f"non-default args: {args.non_default}", "api_utils.py:286")
    with _bind(args) as bound:
        failures.check(options.fail or failures.of_model(args.model), "config", args.model)
        time.sleep(options.config_s)
        log.line("Resolved architecture: LlamaForCausalLM", "model.py:733")
        log.line(f"Using max model len {args.max_model_len or 4096}", "model.py:2152")
        leftovers.start_tracker()
        leftovers.semaphore()
        leftovers.sockets(3)
        signals = tree.Signals()
        faults.phase(options, "leader", "init")
        engines = engine.start(args, options, [bound.fileno()])
        try:
            engine.await_ready(engines, signals)
            return api.run(bound, args, options, signals, engines)
        finally:
            engines.stop()


def _bind(args: argparse.Namespace) -> socket.socket:
    """Bind without listening, as vLLM's setup_server: clients are refused until the server is ready."""
    host = args.host or "0.0.0.0"
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, args.port))
    return bound
