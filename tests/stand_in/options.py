"""What a test can ask of the stand-in, by the environment variable STAND_IN (a JSON object)."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any, Literal, TypedDict

VARIABLE = "STAND_IN"
LIFE_S = 15 * 60  # no process of a stand-in outlives this, so a failed test leaves nothing for long


class _Where(TypedDict):
    who: Literal["leader", "engine", "worker"]
    when: Literal["import", "init", "ready"]


class Die(_Where, total=False):
    """A death: of whom, in which phase, how long after its beginning, by exit code (`rc`, else 1) or by `signal`.

    It writes the lines `says` before, as they stand: those that were recorded of vLLM.

    The leader is ready once it answers /health; with `--api-server-count` above 1, once it started them.
    """

    after_s: float
    rc: int
    signal: int
    says: list[str]


class _Rate(TypedDict):
    bytes_per_s: float
    seconds: float


class Flood(_Rate, total=False):
    """Log lines at `bytes_per_s` for `seconds`, at most 1 GiB in all; with `newline` false one endless line."""

    newline: bool


@dataclasses.dataclass(frozen=True)
class Options:
    """Timing, VRAM and faults; the defaults are a healthy, fast server. Times are seconds, sizes bytes."""

    version: str = "0.32.0"  # of an older one: its log lines, and its answers for what the model cannot do
    import_s: float = 0.05  # the leader, before it reads its command line
    config_s: float = 0.02  # the leader, between its command line and the engine
    init_s: float = 0.05  # the engine, before it starts its workers
    load_s: float = 0.05  # each worker
    warmup_s: float = 0.05  # the engine
    token_s: float = 0.005  # between two tokens of an answer
    exit_delay_s: float = 0.1  # the engine's own tear-down
    dead_exit_s: float = 0.5  # from the engine's death to the API server's exit (vLLM: 3 to 7)
    life_s: int = LIFE_S  # after which every process but the resource tracker ends; not above LIFE_S

    vram: int = 2 << 30  # by each rank, where FAKE_GPU_DIR is set
    vram_child: int = 256 << 20  # by `setsid_child` and `daemonise`
    vram_teardown_s: float = 0.0  # for which the fake driver is slow to give a rank's bytes back

    hang_in: Literal["import", "init", "load"] | None = (
        None  # leader, engine, worker; SIGUSR1 to it ends the hang
    )
    fail: str | None = None  # a key of failures.RECORDED
    die: Die | None = None
    ignore_sigterm: bool = False  # every process
    ignore_sigterm_engine: bool = False  # engines and workers
    setpgrp: bool = False  # engines leave the process group (as with --data-parallel-multi-port-external-lb)
    setsid_child: bool = False  # a child of the engine, `VLLM::Setsid`, in its own session; nobody ends it
    daemonise: bool = False  # `VLLM::Daemon`: double fork and setsid; nobody ends it
    unmarked: bool = (
        False  # `VLLM::Stray`, twice: double forks with an empty environment, one of them in its own session
    )
    other_user: bool = (
        False  # `VLLM::Other`, a child of the engine that has become another user; nobody ends it
    )
    children: int = 0  # more children of the engine, `VLLM::Child`, which end with it
    fork_while_killed: bool = False  # `VLLM::Forker`: see faults.keep_forking
    maps: str | None = None  # a file that the engine maps, as vLLM maps weights
    log_flood: Flood | None = None
    trigger: str | None = None  # a FIFO: these two begin when somebody opens it to write, not at once
    log_epoch: bool = False  # the time of a line in seconds since the epoch, to the microsecond
    log_bytes: bool = False  # bytes that are no UTF-8, escape sequences and HTML in the log

    imports: Literal["thread", "crash", "missing", "hang", "nvml", "cuda"] | None = (
        None  # what importing vLLM's commands does ahead
    )

    metrics_drip: bool = False  # /metrics answers a byte at a time, for ever
    late_counters: bool = (
        False  # /metrics shows no request before its end, as vLLM's in one long step of its engine
    )

    sleeps: bool = True  # with --enable-sleep-mode, that /sleep gives VRAM back
    wakes: bool = True  # that /wake_up does not fail
    task: Literal["generate", "embed", "classify"] = "generate"  # what the model is for
    chat_template: bool = True
    says: str | None = None  # in place of " word0 word1 ...", a token for each word
    thinks: str = ""  # before that, as a reasoning model
    refuses: str = ""  # in place of that

    def is_before(self, minor: int) -> bool:
        """Whether the version is older than 0.`minor`."""
        return int(self.version.split(".")[1]) < minor


def options(**asked: Any) -> dict[str, str]:
    """Return the environment that asks for `asked`, names of fields of `Options`; others are a TypeError."""
    Options(**asked)
    return {VARIABLE: json.dumps(asked)}


def from_environment() -> Options:
    """Return what this process was asked for."""
    return Options(**json.loads(os.environ.get(VARIABLE, "{}")))
