"""docs/performance.md: the table of a run, the picture, and the machine that it was measured on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.growth import Growth
    from bench.table import Row

PICTURE = "performance.svg"
PAGE = "performance.md"
_PAGE = """\
# What vllm_magic costs

Written by `make performance`: every number is of that run, on {machine}.
Load before it: {load:.2f}. A ratio is to the same without vllm_magic (or to the smaller case, where it says "beside"), in the
same run: the median of the ratios of the pairs.

{table}
{growth}"""
_GROWTH = """
## How the costs grow

![What each cost is with 1, 10 and 50 servers, and with 100 to 5,000 other processes](performance.svg)

| servers in one kernel | ready, all | bare | stop, all | bare | `%vllm status` | sampler | threads more | memory more |
|---|---|---|---|---|---|---|---|---|
{servers}

| other processes | `%vllm status` | stop | sweep of an orphan |
|---|---|---|---|
{others}

- Servers are the tests' stand-ins for vLLM, each with four Python processes that take {tear_down:g} s to end (in the second table
  as long as they must), on eight fake GPUs. "Bare" is the same without vllm_magic: so many Pythons that start or end at once
  take the two cores themselves.
- A server takes one thread of its kernel. The sampler looks once a second at each of 20 servers, and of
  more at 20 in turn, so that its cost grows no further.
- The other processes are in sessions of 20, as services and terminals are; half of them are older than the server and
  half are younger. Of each session one process is read, and the environment of all that are younger than the server, once,
  for the proof.
- A sweep of an orphan looks at the whole machine seven times: for its condition, before, between and after the kills, and
  for the proof. Each look lists all of /proc.
- Of a log the end is read, whatever its length.
"""


def page(rows: Sequence[Row], growth: Growth | None, load: float) -> str:
    """The page as Markdown; without what the part `scale` measures where that was not run."""
    cells = [row.cells() for row in rows]
    table = "\n".join(
        _line(one) for one in (("what", "ours", "raw", "ratio", "goal", "met"), ("---",) * 6, *cells)
    )
    return _PAGE.format(machine=_machine(), load=load, table=table, growth=_growth(growth) if growth else "")


def _growth(growth: Growth) -> str:
    from statistics import median

    from bench.fleet import TEAR_DOWN

    servers = [
        (
            f"{one.servers}",
            f"{one.start:.1f} s",
            f"{one.bare_start:.1f} s",
            f"{one.stop:.2f} s",
            f"{one.bare_stop:.2f} s",
            f"{1000 * median(one.status):.1f} ms",
            f"{100 * one.sampler:.2f} % of a core",
            f"{one.threads}",
            f"{one.memory / 1e6:.1f} MB",
        )
        for one in growth.servers
    ]
    others = [
        (
            f"{one.others:,}",
            *(f"{1000 * median(times):.0f} ms" for times in (one.status, one.stop, one.sweep)),
        )
        for one in growth.others
    ]
    return _GROWTH.format(
        servers="\n".join(map(_line, servers)), others="\n".join(map(_line, others)), tear_down=TEAR_DOWN
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, Linux {platform.release().partition('-')[0]}, "
        f"Python {sys.version.split()[0]}, vLLM {_vllm()} where it is the real one"
    )


def _processor() -> str:
    """What it calls itself, and whether vLLM's CPU build finds its widest instructions there."""
    words = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in words.splitlines() if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.machine()}, {'with' if 'avx512f' in words else 'without'} AVX-512"
    )


def _vllm() -> str:
    """The version of the real vLLM that is measured."""
    from tests.real.environment import environment

    (found,) = Path(environment().executable).parent.parent.glob("lib/python*/site-packages/vllm-*.dist-info")
    return found.name.removeprefix("vllm-").removesuffix(".dist-info")
