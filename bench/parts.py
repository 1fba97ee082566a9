"""What is measured: one function for each part, which gives rows of the table.

Ours and the bare command take turns; at any time there is one server at most.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import psutil

import vllm_magic
from bench import guards
from bench.asking import BARE, OURS, Asking
from bench.clicks import can_click, click_seconds, stop_seconds
from bench.completion import completion_seconds
from bench.death import bare_death_seconds, death_seconds
from bench.load import load_seconds
from bench.panel import SERVERS, measure, opening_seconds, stand_ins
from bench.raw import READY_LIMIT, SILENT, RawServer
from bench.stages import SLOW, stage_lags
from bench.streams import COUNT, Streams
from bench.table import Row
from bench.warm import SETTLE, pair, time_raw
from tests import stand_in
from vllm_magic.linux import processes
from vllm_magic.manager.manager import manager

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.target import Target

INIT_LOOK = 0.05  # seconds between looks for the engine's initialisation
IDLE = 10.0  # seconds for which the guards are watched
RELOADS = 7
SAMPLED = 3  # servers
SAMPLING = 20.0  # seconds
TOKEN = 0.004  # seconds that the stand-in takes for each: more than 200 in a second, with its own overhead
STARTS = 10  # of which each stage is watched
DEATHS = 3
FORCED = " (on the CPU that is forced)"
CLICKED = 5  # starts, and as many stops
QUESTIONS = 25  # asked by each side


def ready(target: Target, pairs: int) -> list[Row]:
    """Time to ready, and to stop again when idle."""
    _say("warm-up: a bare server, not measured")
    time_raw(target)
    ours, raw = [], []
    for number in range(1, pairs + 1):
        ours.append(_time_ours(target))
        raw.append(time_raw(target))
        _say(f"pair {number}: ready, stop: ours {_seconds(ours[-1])}, raw {_seconds(raw[-1])}")
    our_starts, our_stops = zip(*ours, strict=True)
    raw_starts, raw_stops = zip(*raw, strict=True)
    return [
        Row("time to ready", "s", our_starts, 1.03, raw_starts, below=False),
        Row("stop when idle", "s", our_stops, 1.25, raw_stops, below=False),
    ]


def warm(target: Target, pairs: int) -> list[Row]:
    """Time to ready from a spare, and of a restart with one: with engines that are spawned, and forked."""
    _say("warm-up: a bare server, not measured")
    time_raw(target)
    rows = []
    for method, start, restart in (("spawn", 0.70, None), ("fork", 0.25, 0.30)):
        label = "spawned" if method == "spawn" else "forked" + ("" if target.on_gpu else FORCED)
        seen = []
        for number in range(1, pairs + 1):
            seen.append(one := pair(target, method))
            _say(
                f"pair {number}, {method}: ready {one.start:.2f} s, raw {one.raw_start:.2f} s; "
                f"restart {one.restart:.2f} s, raw {one.raw_restart:.2f} s"
            )
        starts, raw_starts = tuple(one.start for one in seen), tuple(one.raw_start for one in seen)
        restarts, raw_restarts = tuple(one.restart for one in seen), tuple(one.raw_restart for one in seen)
        rows += [
            Row(f"ready from a spare, {label}", "s", starts, start, raw_starts, below=False),
            Row(f"restart with a spare, {label}", "s", restarts, restart or 1.0, raw_restarts, below=False),
        ]
    return rows


def streams(target: Target) -> list[Row]:
    """Stop with open streams."""
    with _our_server(target) as server, Streams(target, server.port) as opened:
        opened.check()
        took = _stop(server)
    _say(f"{COUNT} streams: ours {took:.2f} s")
    with RawServer(target) as raw:
        raw.wait_until_ready()
        with Streams(target, raw.port) as opened:
            opened.check()
            says = _silence(raw.stop(SILENT))
    _say(f"{COUNT} streams: raw {says}")
    return [Row(f"stop with {COUNT} open streams", "s", (took,), 2.0, says)]


def init(target: Target) -> list[Row]:
    """Stop in the middle of the engine's initialisation."""
    with _our_server(target, wait=False) as server:
        _wait_for_engine(server)
        took = _stop(server)
    _say(f"initialisation: ours {took:.2f} s")
    with RawServer(target) as raw:
        _wait_for_engine(raw)
        says = _silence(raw.stop(SILENT))
    _say(f"initialisation: raw {says}")
    return [Row("stop while the engine initialises", "s", (took,), 4.0, says)]


def death(target: Target) -> list[Row]:
    """A kernel that is killed with a ready server."""
    took = tuple(death_seconds(target) for _ in range(DEATHS))
    says = _silence(bare_death_seconds(target)).replace("SIGTERM", "the kernel")
    _say(f"kernel killed: ours {', '.join(f'{one:.2f}' for one in took)} s, raw {says}")
    return [Row("kernel SIGKILL, until nothing is left", "s", took, 2.0, says)]


def load(target: Target) -> list[Row]:
    """`%load_ext vllm_magic`."""
    took = tuple(1000 * seconds for seconds in load_seconds(target.folder, RELOADS))
    _say(f"load_ext: {', '.join(f'{milliseconds:.0f}' for milliseconds in took)} ms")
    return [Row("%load_ext vllm_magic", "ms", took, 60.0)]


def stages(target: Target) -> list[Row]:
    """How far the stage shown is behind the log, with a stand-in for vLLM that takes its time for each."""
    slow = replace(
        target,
        executable=str(stand_in.install(target.folder / "slow")),
        model="tiny",
        env=stand_in.options(log_epoch=True, **SLOW),
    )
    lags = stage_lags(slow, STARTS)
    _say(f"stages: {', '.join(f'{seconds:.2f}' for seconds in lags)} s behind the log")
    return [Row(f"stage shown behind the log, the most of {len(lags)}", "s", (max(lags),), 0.5)]


def completion(target: Target) -> list[Row]:
    """Completion in a kernel, with vLLM's flags in the cache."""
    first, later = completion_seconds(target, RELOADS)
    for name, took in (("first in a kernel", first), ("later", later)):
        _say(f"completion, {name}: {', '.join(f'{1000 * seconds:.0f}' for seconds in took)} ms")
    return [
        Row("completion, first in a kernel", "ms", tuple(1000 * seconds for seconds in first), 20.0),
        Row("completion, later", "ms", tuple(1000 * seconds for seconds in later), 20.0),
    ]


def guard(target: Target) -> list[Row]:
    """What the guard pair of an idle server costs."""
    with _our_server(target) as server:
        time.sleep(SETTLE)
        pair = guards.of(server.pid or 0)
        before = guards.context_switches(pair)
        time.sleep(IDLE)
        switches = guards.context_switches(pair) - before
        megabytes = guards.private_bytes(pair) / 1e6
    _say(f"guard pair: {megabytes:.2f} MB, {switches} context switches")
    return [
        Row("guard pair: private memory", "MB", (megabytes,), 12.0),
        Row(f"guard pair: context switches in {IDLE:g} s", "", (switches,), 0, below=False),
    ]


def sampler(target: Target) -> list[Row]:
    """What it costs to look at three ready servers each second: in this process, and in the one that asks the driver.

    The servers are the tests' stand-ins, whose /metrics is as long as vLLM's.
    """
    executable = str(stand_in.install(target.folder / "stand-in"))
    with ExitStack() as servers:
        for number in range(SAMPLED):
            servers.enter_context(vllm_magic.serve("tiny", name=f"bench-{number}", executable=executable))
        time.sleep(SETTLE)
        probe = psutil.Process(manager.probe.pid) if manager.probe.pid else None
        began, before = time.monotonic(), _cpu_seconds(probe)
        time.sleep(SAMPLING)
        share = 100 * (_cpu_seconds(probe) - before) / (time.monotonic() - began)
    _say(f"sampler: {share:.2f} % of a core")
    return [Row(f"sampler: {SAMPLED} ready servers for {SAMPLING:g} s", "% of a core", (share,), 1.0)]


def panel(target: Target) -> list[Row]:
    """What an open panel costs its kernel, and how soon a click can be seen."""
    fakes = stand_ins(target)
    cost = measure(fakes)
    opening = tuple(1000 * seconds for seconds in opening_seconds(fakes, RELOADS))
    _say(
        f"kernel: {100 * cost.idle:.2f} % of a core, with {SERVERS} servers {100 * cost.without:.2f} %, "
        f"with a panel too {100 * cost.within:.2f} %; opening: {', '.join(f'{one:.0f}' for one in opening)} ms"
    )
    rows = [
        Row(f"panel, {SERVERS} idle servers: kernel's CPU", "%", (100 * cost.within,), 2.0),
        Row("of that the panel's own", "%", (100 * (cost.within - cost.without),), 2.0),
        Row("panel: messages, a second", "kB", (cost.traffic / 1000,), 2.0),
        Row("%vllm panel, first in a kernel", "ms", opening, 400.0),
    ]
    if can_click():
        clicks = tuple(1000 * seconds for seconds in click_seconds(fakes, CLICKED))
        _say(f"click: {', '.join(f'{one:.0f}' for one in clicks)} ms")
        rows.append(Row("panel: a click to its effect on the screen", "ms", clicks, 100.0))
        for app, name in (("lab", "JupyterLab"), ("notebook", "Notebook 7")):
            stops = tuple(1000 * seconds for seconds in stop_seconds(fakes, app, CLICKED))
            _say(f"Stop beside a busy cell, {name}: {', '.join(f'{one:.0f}' for one in stops)} ms")
            rows.append(Row(f"panel: Stop beside a busy cell acts after, {name}", "ms", stops, 500.0))
    return rows


def ask(target: Target) -> list[Row]:
    """An answer through `%%vllm`, and through a bare httpx loop in a cell of the same kernel.

    From the tests' stand-in for vLLM: the CPU build takes every core while it generates, and whatever else runs waits
    for its turn, so that its first token comes some hundred milliseconds sooner or later by chance.
    """
    ours, bare = [], []
    paced = replace(
        target,
        executable=str(stand_in.install(target.folder / "stand-in")),
        model="tiny",
        env=stand_in.options(token_s=TOKEN),
    )
    with Asking(paced) as kernel:
        for cell in (OURS, BARE):
            kernel.ask(cell)  # for what is imported
        for _ in range(QUESTIONS):
            ours.append(kernel.ask(OURS))
            bare.append(kernel.ask(BARE))
    if {one.text for one in ours} != {one.text for one in bare}:
        raise RuntimeError("the two sides did not show the same answer")
    added = tuple(1000 * (one.first - other.first) for one, other in zip(ours, bare, strict=True))
    first = 1000 * median(one.first for one in bare)
    count = ours[0].tokens or 0
    pace = count / median(one.last - one.first for one in bare)
    _say(f"%%vllm: first token {median(added):+.1f} ms; {pace:.0f} tokens/s")
    return [
        Row("%%vllm: added to the first token", "ms", added, 5.0, f"{first:.1f} ms"),
        Row(
            f"%%vllm: {count} tokens at {pace:.0f}/s",
            "s",
            tuple(one.last for one in ours),
            1.03,
            tuple(one.last for one in bare),
            below=False,
        ),
    ]


def _time_ours(target: Target) -> tuple[float, float]:
    began = time.monotonic()
    with _our_server(target) as server:
        started = time.monotonic() - began
        time.sleep(SETTLE)
        return started, _stop(server)


@contextmanager
def _our_server(target: Target, *, wait: bool = True) -> Iterator[vllm_magic.Server]:
    server = vllm_magic.start(
        target.model, *target.flags, name="bench", executable=target.executable, env=target.env, wait=wait
    )
    try:
        yield server
    finally:
        if not server.state.over:
            server.stop(grace=0.0)


def _stop(server: vllm_magic.Server) -> float:
    began = time.monotonic()
    server.stop()  # raises unless everything is gone
    return time.monotonic() - began


def _wait_for_engine(server: vllm_magic.Server | RawServer) -> None:
    """Return when the engine core has begun to initialise.

    Raises:
        RuntimeError: it has not within `READY_LIMIT`.
    """
    deadline = time.monotonic() + READY_LIMIT
    while not _is_initialising(server):
        if time.monotonic() >= deadline:
            raise RuntimeError("the engine did not begin to initialise")
        time.sleep(INIT_LOOK)


def _is_initialising(server: vllm_magic.Server | RawServer) -> bool:
    pid, log = server.pid, server.log_path
    if pid is None or log is None or "Initializing a V1 LLM engine" not in log.read_text(errors="replace"):
        return False
    members = processes.session_members(processes.table(), pid)
    return any("VLLM::EngineCore" in processes.title(member) for member in members)


def _silence(took: float | None) -> str:
    return f"lives {SILENT:g} s after SIGTERM" if took is None else f"{took:.2f} s"


def _cpu_seconds(probe: psutil.Process | None) -> float:
    own = time.process_time()
    if probe is None:
        return own
    times = probe.cpu_times()
    return own + times.user + times.system


def _seconds(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.2f} s, {pair[1]:.3f} s"


def _say(text: str) -> None:
    print(text, flush=True)
