"""The display of results: each is a `View`, and none shows a key."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic.linux import processes
from vllm_magic.provisioning.standby_pool import StandbyMode
from vllm_magic.sizes import GIB, gib, gib_range
from vllm_magic.view import View, duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vllm_magic.doctor.findings import Report
    from vllm_magic.doctor.reap import Reaped
    from vllm_magic.engine.capacity.fit import Fit
    from vllm_magic.engine.client.generate import Answer
    from vllm_magic.engine.client.metrics import Histogram, Metrics
    from vllm_magic.engine.models.hf_cache import Model
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.provisioning.standby_pool import StandbyStatus
    from vllm_magic.recovery.sweep import Swept
    from vllm_magic.release.result import Release
    from vllm_magic.release.unproved import Recheck
    from vllm_magic.server.server import Server
    from vllm_magic.server.sleep_mode import SleepResult
    from vllm_magic.server.status import ServerStatus

NOTHING_RUNS = "No server runs. Start one with %vllm start MODEL."
WHEN_SPARE = {
    StandbyMode.AUTO: "One is made once a server is ready, where 16 GiB of memory are free. %vllm spare on makes one now.",
    StandbyMode.ON: "One is made once a server is ready.",
    StandbyMode.OFF: "None is made: spares are switched off. %vllm spare on makes one.",
}
_IN_A_CELL = {
    "vllm-magic doctor": "%vllm doctor",
    "vllm-magic reap": "%vllm reap",
    "pip ": "%pip ",
    "export ": "%env ",
    "unset ": "%env ",
}


def server(one: Server) -> View:
    """Return the view of one server, as ``%vllm start`` shows it."""
    return server_status(one.status)


def server_status(one: ServerStatus) -> View:
    """Return the view of ``server.status``: the same."""
    rows = (
        ("model", one.model),
        ("URL", one.base_url),
        ("pid", str(one.pid or "")),
        ("log", str(one.log_path or "")),
    )
    failed = (str(one.error),) if one.error else ()
    return View(f"{one.name}: {_state(one)}", ("", ""), tuple(row for row in rows if row[1]), failed)


def status(servers: Sequence[ServerStatus], gpus: Snapshot | None, others: Sequence[str] = ()) -> View:
    """Return the table of ``%vllm``; ``others`` are lines about servers that are gone, or wait for a kernel."""
    if not servers:
        return View(NOTHING_RUNS, lines=tuple(others))
    columns = ["name", "model", "state", "URL", "since", "pid"]
    rows = [
        [one.name, one.model, _state(one), one.base_url, duration(one.seconds), str(one.pid or "")]
        for one in servers
    ]
    if gpus is not None and gpus.gpus:
        columns.append("VRAM")
        held = _held(servers, gpus)
        for row, used in zip(rows, held, strict=True):
            row.append(gib(sum(used)) if used else "?")
    failed = tuple(f"{one.name}: {one.error}" for one in servers if one.error)
    return View("", tuple(columns), tuple(map(tuple, rows)), (*failed, *others))


def spare(now: StandbyStatus) -> View:
    """Return the view for ``%vllm spare``."""
    if not now.there:
        return View(f"There is no spare: {now.reason}.", lines=(WHEN_SPARE[now.mode],))
    state = f"waits, in {gib(now.memory)} of memory" if now.warm else "is importing vLLM"
    since = duration(max(0.0, time.time() - now.since))
    return View(f"A spare {state}, since {since}. A start like the last one takes far less time with it.")


def sleep_result(one: SleepResult) -> View:
    """Return the view for ``%vllm sleep`` and ``wake``."""
    return View(one.text)


def release(one: Release) -> View:
    """Return the view for ``%vllm stop``: what ended, what memory came back, and the proof."""
    rows = tuple(
        (
            f"{gpu.index}: {gpu.name}",
            gib(gpu.baseline),
            gib(gpu.before),
            gib(gpu.after),
            gib(gpu.freed),
        )
        for gpu in one.vram
    )
    note = (f"({one.proof_note})",) if one.proof_note else ()
    return View(one.text, ("GPU", "before start", "before stop", "now", "freed"), rows, note)


def releases(several: Sequence[Release]) -> View:
    """Return the view for ``%vllm stop --all``."""
    if not several:
        return View("No server runs, so there is nothing to stop.")
    if len(several) == 1:
        return release(several[0])
    rows = tuple(
        (
            one.server,
            f"{one.seconds:.2f} s",
            str(len(one.ended)),
            one.proof.value if one.verified else "NOT proved",
            _freed(one),
        )
        for one in several
    )
    doubts = tuple(f"{one.server}: {one.doubt}" for one in several if one.doubt)
    return View(
        f"{len(several)} servers released.", ("name", "in", "processes", "proof", "freed"), rows, doubts
    )


def metrics(name: str, now: Metrics) -> View:
    """Return the view for ``%vllm metrics``; its times are of all requests since the start of the server."""
    rows = (
        ("requests", f"{now.running} running, {now.waiting} waiting, {now.finished} finished"),
        ("tokens a second now", f"{now.prompt_rate:.1f} in, {now.generation_rate:.1f} out"),
        ("tokens in all", f"{now.prompt_tokens:,} in, {now.generation_tokens:,} out"),
        ("KV cache in use", _percent(now.kv_cache_use)),
        ("prefix cache hits", _percent(now.prefix_hit_rate)),
        ("preempted for lack of KV cache", str(now.preemptions)),
        ("time to first token", _quantiles(now.ttft)),
        ("time between tokens", _quantiles(now.itl)),
    )
    return View(name, ("", ""), rows)


def models(cache: Path, cached: Sequence[Model], servers: Sequence[Server]) -> View:
    """Return the view for ``%vllm models``."""
    if not cached:
        return View(f"No model is in {cache}. %vllm start ORG/MODEL downloads one.")
    rows = tuple(
        (
            model.name,
            gib(model.size) if model.complete else f"{gib(model.size)}, not complete",
            time.strftime("%Y-%m-%d", time.localtime(model.changed)),
            ", ".join(
                server.name for server in servers if server.model == model.name and not server.state.over
            ),
        )
        for model in cached
    )
    total = sum(model.size for model in cached)
    return View(f"{gib(total)} in {cache}", ("model", "size", "downloaded", "served as"), rows)


def answer(one: Answer) -> View:
    """Return the view of an answer of ``server.chat``."""
    from vllm_magic.engine.startup.log import printable
    from vllm_magic.jupyter.display.answer import line

    return View(lines=(*printable(one.text or one.refusal).split("\n"), f"({line(one)})"))


def fit(one: Fit) -> View:
    """Return the view for ``%vllm fit``: the verdict, what each GPU has to hold, and how sure that is."""
    need = one.need
    kv = need.kv.request(one.context) if need.kv_room is None else need.kv_room
    least, most = (need.weights + overhead + kv for overhead in need.overhead)
    columns = ["weights", "overhead", "KV of one request" if need.kv_room is None else "KV cache", "needed"]
    row = [_size(need.weights), gib_range(*need.overhead), _size(kv), gib_range(least, most)]
    rows = [row]
    if one.gpus:
        columns = ["GPU", *columns, "vLLM may use", "free now"]
        rows = [[f"{gpu.index}: {gpu.name}", *row, gib(gpu.usable), gib(gpu.free)] for gpu in one.gpus]
    return View(one.verdict, tuple(columns), tuple(map(tuple, rows)), tuple(_how_sure(one)))


def _how_sure(one: Fit) -> Iterator[str]:
    need = one.need
    numbers = f"{need.parameters:,} parameters, " if need.parameters else ""
    yield f"Weights: {numbers}by {need.source}."
    if need.kv.block:
        window = f"; {need.model.sliding} layers keep a window of {need.model.window:,} tokens"
        yield (
            f"KV cache: {need.kv.token:,} bytes a token on each GPU ({need.kv_dtype}, blocks of "
            f"{need.kv.block_size} tokens){window if need.model.sliding else ''}."
        )
        yield from () if need.kv_doubts else ("Exact: the KV cache of a request.",)
    yield "Estimates:"
    yield "  the overhead (CUDA's context, activations, CUDA graphs), and so what is left for the KV cache"
    yield from (f"  {doubt}" for doubt in (*need.kv_doubts, *need.doubts))


def _size(count: int) -> str:
    return gib(count) if count >= GIB // 100 else f"{count / 2**20:.2f} MiB"


def doctor(report: Report) -> View:
    """Return the view for ``%vllm doctor``."""
    from vllm_magic.doctor import text

    return View(lines=tuple(text.lines(report, in_a_cell)))


def in_a_cell(command: str) -> str:
    """Return the form of a terminal's command line in a notebook."""
    for terminal, cell in _IN_A_CELL.items():
        if command.startswith(terminal):
            return cell + command.removeprefix(terminal) + ("=" if terminal == "unset " else "")
    return f"!{command}"


def swept(results: Sequence[Swept | Recheck]) -> View:
    """Return the view for ``%vllm reap``."""
    return View(lines=tuple(result.text for result in results) or ("Nothing to reap.",))


def reaped(candidates: View, results: Sequence[Reaped], pids: Sequence[int]) -> View:
    """Return the view for ``%vllm reap --pid``: the processes, with the result of each or a hint how to end them."""
    from vllm_magic.doctor import reap

    below = tuple(result.text for result in results) or (reap.confirmation_hint(pids, in_a_cell),)
    return replace(candidates, lines=below)


def lines(name: str, text: Sequence[str], idle_release: str = "") -> View:
    """Return the view of the last lines of a log, below the reason of the release if the server was idle."""
    released = f"{name} was {idle_release}." if idle_release else ""
    return View(released if text else f"The log of {name} is empty. {released}".rstrip(), lines=tuple(text))


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.1f} %"


def _quantiles(times: Histogram) -> str:
    """Return three quantiles as text. They are estimates: vLLM reports only how many requests are in each bucket."""
    known = [(f"p{share}", times.quantile(share / 100)) for share in (50, 95, 99)]
    return (
        ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in known if value is not None) or "none yet"
    )


def _freed(one: Release) -> str:
    known = [gpu.freed for gpu in one.vram if gpu.freed is not None]
    return gib(sum(known) if known else None) if one.vram else ""


def _state(one: ServerStatus) -> str:
    return (
        f"starting: {one.progress.stage.value}"
        if one.state == "starting"
        else f"asleep (level {one.asleep})"
        if one.asleep and one.state == "ready"
        else one.idle_release or one.state.value
    )


def _held(servers: Sequence[ServerStatus], now: Snapshot) -> list[list[int]]:
    """Return the bytes that the driver lists for the processes of each server. Only listed processes are examined."""
    held: list[list[int]] = [[] for _ in servers]
    leaders = {
        one.leader: used for one, used in zip(servers, held, strict=True) if one.leader and not one.state.over
    }
    by_pid = {leader.pid: leader for leader in leaders}
    for process in (one for gpu in now.gpus for one in gpu.processes or ()):
        leader = processes.leader_of(process.pid, by_pid)
        if leader in leaders and process.used is not None:
            leaders[leader].append(process.used)
    return held
