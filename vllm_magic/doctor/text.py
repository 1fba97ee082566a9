"""The report as text: first the things to do, then the facts, then what cannot be seen."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

from vllm_magic import durations
from vllm_magic.doctor import gpus
from vllm_magic.doctor.unowned import Owner
from vllm_magic.errors import one_line
from vllm_magic.ledger import Condition
from vllm_magic.sizes import gib
from vllm_magic.view import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vllm_magic.doctor.findings import Report, ReportedListener, ReportedServer, ReportedTree

WIDTH = 100  # characters
STATES = {
    Condition.OWNED: "{phase}",
    Condition.KEPT: "kept {until} more for a new kernel",
    Condition.RELEASING: "being released",
    Condition.HUNG: "its guards hang",
    Condition.ORPHANED: "left behind",
}


def lines(report: Report, command: Callable[[str], str] = str) -> list[str]:
    """Return the report as lines.

    Args:
        report: the report.
        command: a function that rewrites a terminal's command line for the front end that shows the report.
    """
    return [*_verdict(report, command), "", *facts(report)]


def facts(report: Report) -> list[str]:
    """Return the facts and what cannot be seen, without the things to do."""
    return [*_facts(report), *_unseen(report.unseen)]


def servers(listed: Sequence[ReportedServer]) -> list[str]:
    """Return a table of the servers, without those that only left files; one line where there are none."""
    living = [server for server in listed if server.condition != Condition.LEFT]
    if not living:
        return ["No server of yours runs."]
    columns = ("name", "model", "state", "URL", "age", "kernel", "id")
    return table(
        columns,
        [
            (server.name, server.model, state(server), server.url, _age(server), _kernel(server), server.id)
            for server in living
        ],
    )


def state(server: ReportedServer) -> str:
    """Return the state of a server as a short text."""
    until = durations.short_text(max(0.0, (server.kept_until or 0.0) - time.time()))
    takes = "" if server.memory is None else f", {gib(server.memory)} of memory"
    return STATES[Condition(server.condition)].format(phase=server.phase + takes, until=until)


def _verdict(report: Report, command: Callable[[str], str]) -> Iterator[str]:
    if report.healthy:
        yield "All is well: nothing to do."
        return
    count = len(report.findings)
    yield "1 thing to do:" if count == 1 else f"{count} things to do:"
    for number, finding in enumerate(report.findings, 1):
        first = f"{number:3}. "
        yield ""
        yield from textwrap.wrap(
            one_line(finding.what), WIDTH, initial_indent=first, subsequent_indent=" " * 5,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        yield f"       {command(finding.command)}"


def _facts(report: Report) -> Iterator[str]:
    vllm = report.vllm
    yield _fact(
        "vLLM", f"{vllm.version or 'version unknown'}, {vllm.executable}" if vllm.executable else "none"
    )
    for note in report.vllm_notes:
        yield from textwrap.wrap(
            one_line(note), WIDTH, initial_indent=" " * 12, subsequent_indent=" " * 12, break_long_words=False
        )
    yield _fact("driver", f"NVIDIA {report.driver}" if report.driver else "none")
    for gpu in report.gpus:
        yield _fact(f"GPU {gpu.index}", f"{gpu.name}, {gib(gpu.used)} of {gib(gpu.total)} in use")
        for holding in gpu.holdings or ():
            yield f"{'':14}{gib(holding.bytes):>10}  {one_line(gpus.holder_text(holding))}"
    yield from _block("servers", servers(report.servers))
    if report.state_folder:
        yield _fact("state", report.state_folder)
    owned = [tree for tree in report.elsewhere if tree.owner != Owner.NOBODY]  # the other trees are findings
    yield from _block("other vLLM", map(_elsewhere, owned))
    yield from _block("releases", [_releasing(release.uuid, release.pids) for release in report.releases])
    taken = [
        f"{listener.port}, vLLM's default port, is used by {_listener(listener)}"
        for listener in report.default_port
    ]
    if taken:
        yield from _block("ports", [*taken, "(no problem: %vllm start takes a free port)"])


def _unseen(spots: Iterable[str]) -> Iterator[str]:
    for number, spot in enumerate(spots):
        if number == 0:
            yield from ("", "What cannot be seen:")
        yield from textwrap.wrap(
            one_line(spot), WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False
        )


def _elsewhere(tree: ReportedTree) -> str:
    who = f", started by {tree.above}" if tree.owner == Owner.STARTER and tree.above else ""
    held = f", {gib(tree.bytes)}" if tree.bytes else ""
    return f"{tree.title[:60]} (pid {tree.pid}, {tree.user}), {durations.short_text(tree.age)} old{held}{who}"


def _releasing(uuid: str, pids: Sequence[int]) -> str:
    who = f" (pid {', '.join(map(str, pids))})" if pids else ""
    return f"under way on {uuid}{who}; a start there waits for it"


def _listener(listener: ReportedListener) -> str:
    if not listener.pid:
        return f"a process of {listener.user}"
    return f"{listener.who[:60]} (pid {listener.pid}, {listener.user})"


def _age(server: ReportedServer) -> str:
    return durations.short_text(max(0.0, time.time() - server.since))


def _kernel(server: ReportedServer) -> str:
    return f"pid {server.kernel}" if server.kernel_lives else "gone"


def _block(name: str, texts: Iterable[str]) -> Iterator[str]:
    for line in texts:
        yield _fact(name, line)
        name = ""


def _fact(name: str, text: str) -> str:
    return f"{name:12}{one_line(text)}"
