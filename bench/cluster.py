"""What a server on a Ray cluster asks of the cluster's head, measured on one of two nodes on this machine.

    make .venv/.ray && .venv/bin/python bench/cluster.py

Every agent renews its lease each 5 s and looks at its job each 5 s: so many servers a head can have as it answers such
requests in that time.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.ray.nodes import Cluster, until
from vllm_magic.cluster.rest import Ray

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 5.0
THREADS = 8


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "home", {})
        try:
            ray = Ray(cluster.address)
            ray.submit("bench", "exec sleep 600")
            until(lambda: ray.job("bench").status == "RUNNING")
            for what, ask in (
                ("renew a lease", lambda: ray.put("_ray_pkg_bench_lease", b"1")),
                ("look at a job", lambda: ray.job("bench")),
            ):
                alone = _latencies(ask)
                print(
                    f"{what}: {1000 * median(alone):.1f} ms alone, "
                    f"{_rate(ask):.0f} a second with {THREADS} that ask"
                )
            ray.stop("bench")
        finally:
            cluster.close()


def _latencies(ask: Callable[[], object]) -> list[float]:
    times, end = [], time.monotonic() + SECONDS
    while time.monotonic() < end:
        began = time.monotonic()
        ask()
        times.append(time.monotonic() - began)
    return times


def _rate(ask: Callable[[], object]) -> float:
    counts = [0] * THREADS

    def work(number: int) -> None:
        counts[number] = len(_latencies(ask))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS


if __name__ == "__main__":
    main()
