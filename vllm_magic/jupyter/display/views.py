"""The display of results: each is a `View`, and none shows a key."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.linux import processes
from vllm_magic.provisioning.standby_pool import StandbyMode
from vllm_magic.sizes import gib
from vllm_magic.view import View

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vllm_magic.doctor.findings import Report
    from vllm_magic.doctor.reap import Reaped
    from vllm_magic.engine.client.metrics import Histogram, Metrics
    from vllm_magic.engine.models.hf_cache import Model
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.linux.processes import Identity
    from vllm_magic.provisioning.standby_pool import StandbyStatus
    from vllm_magic.recovery.orphaned_commands import EndedCommand
    from vllm_magic.recovery.sweep import Swept
    from vllm_magic.release.result import Release
    from vllm_magic.release.unproved import Recheck
    from vllm_magic.server.server import Server
    from vllm_magic.server.status import ServerStatus

NOTHING_RUNS = "No server runs. Start one with %vllm start MODEL."
WHEN_SPARE = {
    StandbyMode.AUTO: "One is made once a server is ready, if 16 GiB of memory are free. %vllm spare on makes one now.",
    StandbyMode.ON: "One is made once a server is ready.",
    StandbyMode.OFF: "None is made: spares are switched off. %vllm spare on makes one.",
}
_IN_A_CELL = {
    "vllm-magic doctor": "%vllm doctor",
    "vllm-magic reap": "%vllm reap",
    "vllm-magic install": "%vllm install",
    "vllm-magic use": "%vllm use",
    "pip ": "%pip ",
    "export ": "%env ",
    "unset ": "%env ",
}


def status(servers: Sequence[ServerStatus], gpus: Snapshot | None, notes: Sequence[str] = ()) -> View:
    """Return the table of ``%vllm``, with notes below it."""
    if not servers:
        return View(NOTHING_RUNS, lines=tuple(notes))
    columns = ["name", "model", "state", "URL", "since", "pid"]
    rows = [
        [
            now.name,
            now.model,
            now.state_text,
            now.base_url,
            durations.short_text(now.seconds),
            str(now.pid or ""),
        ]
        for now in servers
    ]
    if gpus is not None and gpus.gpus:
        columns.append("VRAM")
        for row, used in zip(rows, _vram(servers, gpus), strict=True):
            row.append(gib(sum(used)) if used else "?")
    failed = tuple(f"{now.name}: {now.error}" for now in servers if now.error)
    return View("", tuple(columns), tuple(map(tuple, rows)), (*failed, *notes))


def spare(now: StandbyStatus) -> View:
    """Return the view for ``%vllm spare``."""
    if not now.there:
        return View(f"There is no spare: {now.reason}.", lines=(WHEN_SPARE[now.mode],))
    state = f"waits, in {gib(now.memory)} of memory" if now.warm else "is importing vLLM"
    since = durations.short_text(max(0.0, time.time() - now.since))
    return View(f"A spare {state}, since {since}. A start like the last one takes far less time with it.")


def releases(all_releases: Sequence[Release]) -> View:
    """Return the view for ``%vllm stop --all``."""
    if not all_releases:
        return View("No server runs, so there is nothing to stop.")
    if len(all_releases) == 1:
        return all_releases[0].view()
    rows = tuple(
        (
            release.server,
            f"{release.seconds:.2f} s",
            str(len(release.ended)),
            release.proof.value if release.verified else "NOT proved",
            _freed(release),
        )
        for release in all_releases
    )
    doubts = tuple(f"{release.server}: {release.doubt}" for release in all_releases if release.doubt)
    return View(
        f"{len(all_releases)} servers released.", ("name", "in", "processes", "proof", "freed"), rows, doubts
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


def swept(results: Sequence[Swept | EndedCommand | Recheck]) -> View:
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


def _freed(release: Release) -> str:
    known = [gpu.freed for gpu in release.vram if gpu.freed is not None]
    return gib(sum(known) if known else None) if release.vram else ""


def _vram(servers: Sequence[ServerStatus], snapshot: Snapshot) -> list[list[int]]:
    """Return, for each server, the bytes of each of its processes that the driver lists."""
    by_leader: dict[Identity, list[int]] = {
        server.leader: [] for server in servers if server.leader and not server.state.over
    }
    leaders = {leader.pid: leader for leader in by_leader}
    for process in (process for gpu in snapshot.gpus for process in gpu.processes or ()):
        leader = processes.leader_of(process.pid, leaders)
        if leader in by_leader and process.used is not None:
            by_leader[leader].append(process.used)
    return [by_leader.get(server.leader, []) if server.leader else [] for server in servers]
