"""The part `scale`: how the costs grow with servers, other processes and the log, as rows and as a picture."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench import long_log, scale, strangers
from bench.picture import Curve, Panel, draw
from bench.table import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.target import Target


class Growth(NamedTuple):
    """All that was measured."""

    servers: list[scale.Cost]
    others: list[strangers.Cost]
    log: long_log.Cost


def measure(target: Target) -> Growth:
    """Measure it; about six minutes on two cores."""
    return Growth(scale.measure(target), strangers.measure(target), long_log.measure(target))


def rows(growth: Growth) -> list[Row]:
    """The numbers to reach."""
    one, most = growth.servers[0], growth.servers[-1]
    few, many = growth.others[0], growth.others[-1]
    more = most.servers - one.servers
    log = growth.log
    return [
        Row(f"%vllm status, {most.servers} servers", "ms", _ms(most.status), 20.0),
        Row("kernel's threads, each server more", "", ((most.threads - one.threads) / more,), 1, below=False),
        Row("kernel's memory, each server more", "MB", ((most.memory - one.memory) / more / 1e6,), 1.0),
        Row(f"sampler, {most.servers} servers on 8 GPUs", "% of a core", (100 * most.sampler,), 3.0),
        Row(f"stop all {most.servers}, beside the stop of one", "s", (most.stop,), 1.5, (one.stop,)),
        Row(f"the same of bare {most.servers} and one", "s", (most.bare_stop,), 1.5, (one.bare_stop,)),
        *(
            Row(
                f"{what} among {many.others:,} processes, beside {few.others}", "ms", _ms(ours), 2.0, _ms(raw)
            )
            for what, ours, raw in (
                ("%vllm status", many.status, few.status),
                ("stop", many.stop, few.stop),
                ("sweep of an orphan", many.sweep, few.sweep),
            )
        ),
        Row("%vllm logs, of 2 GB, beside 2 MB", "ms", _ms(log.large), 2.0, _ms(log.small)),
        Row("a new line of that log, read", "ms", _ms(log.news), 5.0),
        Row("a log of 2 GB, on disk", "MB", (log.on_disk / 1e6,), 68.0),
    ]


def picture(growth: Growth) -> str:
    """How each cost grows, as an SVG file."""
    servers, others = growth.servers, growth.others

    def by_servers(title: str, *curves: Curve) -> Panel:
        return Panel(title, "servers", curves)

    def by_others(title: str, costs: Iterable[Sequence[float]]) -> Panel:
        points = ((cost.others, 1000 * median(times)) for cost, times in zip(others, costs, strict=True))
        return Panel(title, "other processes on the machine", (Curve("", tuple(points)),))

    def curve(legend: str, values: Iterable[float]) -> Curve:
        return Curve(
            legend, tuple((cost.servers, value) for cost, value in zip(servers, values, strict=True))
        )

    return draw(
        "What vllm_magic costs with many servers, and on a machine with many processes",
        [
            by_servers(
                "start all, until ready (s)",
                curve("with vllm_magic", (one.start for one in servers)),
                curve("bare", (one.bare_start for one in servers)),
            ),
            by_servers(
                "stop all (s)",
                curve("with vllm_magic", (one.stop for one in servers)),
                curve("bare", (one.bare_stop for one in servers)),
            ),
            by_servers("%vllm status (ms)", curve("", (1000 * median(one.status) for one in servers))),
            by_servers("sampler (% of a core)", curve("", (100 * one.sampler for one in servers))),
            by_servers("threads of the kernel, more", curve("", (one.threads for one in servers))),
            by_servers("memory of the kernel, more (MB)", curve("", (one.memory / 1e6 for one in servers))),
            by_others("%vllm status (ms)", [one.status for one in others]),
            by_others("stop (ms)", [one.stop for one in others]),
            by_others("sweep of an orphan (ms)", [one.sweep for one in others]),
        ],
    )


def _ms(seconds: Iterable[float]) -> tuple[float, ...]:
    return tuple(1000 * one for one in seconds)
