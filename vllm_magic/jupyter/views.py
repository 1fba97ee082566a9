"""How results look: plain text for a terminal, HTML for a notebook, both from the same content.

Everything that comes from outside (model names, logs, process names) is escaped on its way into HTML, and
nothing shows a key: whatever it was that brought one here, `View` masks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from vllm_magic.errors import one_line
from vllm_magic.masking import mask
from vllm_magic.release import Proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.release import Release
    from vllm_magic.server import Server

NOTHING_RUNS = "No server runs. Start one with %vllm start MODEL."
_CELL = "text-align:left;padding:2px 12px 2px 0"
_PRE = "white-space:pre-wrap;margin:0;max-height:30em;overflow:auto"


@dataclass(frozen=True)
class View:
    """A headline, a table and lines below it; each may be empty.

    Attributes:
        headline: one line.
        columns: the table's header.
        rows: the table's cells, as text.
        lines: text below, as it is.
    """

    headline: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Mask keys, and put each cell on one line: the title of a process may hold anything."""
        object.__setattr__(self, "headline", mask(self.headline))
        object.__setattr__(self, "rows", tuple(tuple(map(one_line, row)) for row in self.rows))
        object.__setattr__(self, "lines", tuple(map(mask, self.lines)))

    def __repr__(self) -> str:
        above = (self.headline, _table(self.columns, self.rows))
        return "\n".join((*filter(None, above), *self.lines))

    def _repr_html_(self) -> str:
        parts = [f"<div>{escape(self.headline)}</div>" if self.headline else ""]
        if self.rows:
            head = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in self.columns)
            body = "".join(
                "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>"
                for row in self.rows
            )
            header = f"<thead><tr>{head}</tr></thead>" if any(self.columns) else ""
            parts.append(f"<table>{header}<tbody>{body}</tbody></table>")
        if self.lines:
            parts.append(f'<pre style="{_PRE}">{escape(chr(10).join(self.lines))}</pre>')
        return "".join(parts)


def server(one: Server) -> View:
    """One server, as ``%vllm start`` returns it."""
    rows = (
        ("model", one.model),
        ("URL", one.base_url),
        ("pid", str(one.pid or "")),
        ("log", str(one.log_path or "")),
    )
    failed = (str(one.error),) if one.error else ()
    return View(f"{one.name}: {_state(one)}", ("", ""), tuple(row for row in rows if row[1]), failed)


def status(servers: Sequence[Server], gpus: Snapshot | None, farewells: Sequence[str] = ()) -> View:
    """The table of ``%vllm``; ``farewells`` are lines on servers that are not there any more."""
    if not servers:
        return View(NOTHING_RUNS, lines=tuple(farewells))
    columns = ["name", "model", "state", "URL", "since", "pid"]
    rows = [
        [one.name, one.model, _state(one), one.base_url, _duration(one.seconds), str(one.pid or "")]
        for one in servers
    ]
    if gpus is not None and gpus.gpus:
        columns.append("VRAM")
        for row, one in zip(rows, servers, strict=True):
            row.append(_held(one, gpus))
    failed = tuple(f"{one.name}: {one.error}" for one in servers if one.error)
    return View("", tuple(columns), tuple(map(tuple, rows)), (*failed, *farewells))


def release(one: Release) -> View:
    """What ``%vllm stop`` returns: what ended, what came back, and the proof."""
    count = len(one.ended)
    ended = f"{count} process{'' if count == 1 else 'es'} ended" if count else "it had not started"
    proof = f"proved by {one.proof.value}" if one.verified else "NOT proved"
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
    note = (f"({one.note})",) if one.note and one.proof is not Proof.NVML_MEMORY else ()
    headline = f"{one.server} released in {one.seconds:.2f} s: {ended}, {proof}."
    return View(headline, ("GPU", "before start", "before stop", "now", "freed"), rows, note)


def releases(several: Sequence[Release]) -> View:
    """What ``%vllm stop --all`` returns."""
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
    return View(f"{len(several)} servers released.", ("name", "in", "processes", "proof", "freed"), rows)


def gpus(now: Snapshot, servers: Sequence[Server]) -> View:
    """The table of ``%vllm gpu``: who holds how much of which GPU."""
    if not now.gpus:
        return View(f"No GPU can be seen: {now.problem}.")
    owners = {process.identity.pid: one.name for one in servers for process in one.processes()}
    rows = tuple(row for gpu in now.gpus for row in _gpu_rows(gpu, owners))
    driver = f"Driver {now.driver}" if now.driver else ""
    return View(driver, ("GPU", "holder", "memory", "of"), rows)


def lines(name: str, text: Sequence[str], farewell: str = "") -> View:
    """The end of a log, below what became of its server."""
    said = f"{name} was {farewell}." if farewell else ""
    return View(said if text else f"The log of {name} is empty. {said}".rstrip(), lines=tuple(text))


def gib(count: int | None) -> str:
    """Bytes as GiB; "?" where they are not known."""
    return "?" if count is None else f"{count / 2**30:.2f} GiB"


def _freed(one: Release) -> str:
    known = [gpu.freed for gpu in one.vram if gpu.freed is not None]
    return gib(sum(known) if known else None) if one.vram else ""


def _state(one: Server) -> str:
    return (
        f"starting: {one.progress.stage.value}"
        if one.state == "starting"
        else one.farewell or one.state.value
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _held(one: Server, now: Snapshot) -> str:
    pids = {process.identity.pid for process in one.processes()}
    listed = [process for gpu in now.gpus for process in gpu.processes or () if process.pid in pids]
    known = [process.used for process in listed if process.used is not None]
    return gib(sum(known)) if known else "?"


def _gpu_rows(gpu: Gpu, owners: dict[int, str]) -> list[tuple[str, ...]]:
    name, total = f"{gpu.index}: {gpu.name}", gib(gpu.total)
    rows: list[tuple[str, ...]] = [(name, "all", gib(gpu.used), total)]
    for process in gpu.processes or ():
        owner = owners.get(process.pid)
        what = f"server {owner}" if owner else _title(process.pid)[:60]
        rows.append(("", f"{what} (pid {process.pid})", gib(process.used), ""))
    if gpu.processes is None:
        rows.append(("", "the driver does not list processes", "", ""))
    elif gpu.unattributed:
        rows.append(("", "unattributed", gib(gpu.unattributed), ""))
    rows.append(("", "free", gib(gpu.free), ""))
    return rows


def _title(pid: int) -> str:
    """Its command line, the program without its folder: that would take all the room there is."""
    from vllm_magic.linux.processes import read, shown_name

    process = read(pid)
    if process is None:
        return "a process that is not visible here"
    program, blank, words = shown_name(process).partition(" ")
    return program.rpartition("/")[2] + blank + words


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    shown = [columns, *rows] if any(columns) else rows
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    )
