"""Measure vllm_magic against the bare command on a real vLLM, and print the ratios.

    make bench                                       # everything; about 14 minutes on two cores
    .venv/bin/python bench/run.py --pairs 1 ready    # one of the parts, see --help
    make performance                                 # everything, and writes docs/performance.md and .svg
    .venv/bin/python bench/run.py --vllm ~/gpu/bin/vllm ready warm streams init death      # on a GPU

Run it on a quiet machine. The exit status says whether everything could be measured, not whether the goals
are met.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import growth, parts, report
from bench.table import Row, render
from bench.target import prepare

if TYPE_CHECKING:
    from bench.growth import Growth

PARTS = (
    "ready",
    "warm",
    "streams",
    "init",
    "death",
    "stages",
    "load",
    "completion",
    "guard",
    "sampler",
    "ask",
    "panel",
    "scale",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure vllm_magic against the bare command.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--pairs", type=int, default=3, help="starts and stops of each side (default: 3)")
    parser.add_argument("--vllm", metavar="PATH", help="a vLLM for GPUs, in place of the CPU build")
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help=f"write {report.PAGE} and {report.PICTURE} there"
    )
    options = parser.parse_args()
    wrong = [part for part in options.parts if part not in PARTS]
    if wrong or options.pairs < 1:
        parser.error(f"no such part: {', '.join(wrong)}" if wrong else "--pairs must be at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with what was started ended on the way
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.2f}{' (not quiet)' if load > 0.5 else ''}", flush=True)
    rows: list[Row] = []
    grown: Growth | None = None
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        target = prepare(Path(folder), options.vllm)
        try:
            for part in options.parts or PARTS:
                if part == "scale":
                    grown = growth.measure(target)
                    rows += growth.rows(grown)
                    continue
                more = (target, options.pairs) if part in ("ready", "warm") else (target,)
                rows += getattr(parts, part)(*more)
        finally:
            if rows:
                print(f"\n{render(rows)}")
    if options.save:
        (options.save / report.PAGE).write_text(report.page(rows, grown, load))
        if grown:
            (options.save / report.PICTURE).write_text(growth.picture(grown))


if __name__ == "__main__":
    main()
