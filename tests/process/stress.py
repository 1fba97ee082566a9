"""Many starts and stops from several threads, with random kills of guards and leaders: a program for test_stress.py.

    python stress.py EXECUTABLE CYCLES THREADS SEED LIMIT_S

Prints what happened as one JSON object. Where it takes longer than LIMIT_S seconds, the stacks of all threads go to
stderr and it ends with status 1: a deadlock is seen, and where it is.
"""

from __future__ import annotations

import collections
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import stand_in

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import NameInUse, ReleaseFailed, ServerNotFound, VllmMagicError
from vllm_magic.linux import pidfd, processes
from vllm_magic.manager.manager import Manager

QUICK = stand_in.options(import_s=0, config_s=0, init_s=0, load_s=0, warmup_s=0, exit_delay_s=0)
WARM_UP = 0.2  # of the cycles, before the first count of what is held
LAUNCH_LIMIT = 60.0  # seconds
ENDING = 10.0  # seconds for a thread to end that has nothing more to do

# What a cycle does, and how often.
KINDS = {
    "at once": 9,
    "when launched": 5,
    "when ready": 2,
    "leader": 3,
    "inner": 3,
    "outer": 3,
    "guards": 2,
    "shared": 3,
}


class Stress:
    """The threads take cycles until none is left."""

    def __init__(self, executable: str, seed: int, limit: int) -> None:
        self.executable = executable
        self.manager = Manager()
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._left = 0
        self._seed = seed
        self._deadline = time.monotonic() + limit
        self._lock = threading.Lock()

    def run(self, cycles: int, threads: int) -> None:
        """Do so many cycles, side by side."""
        self._left = cycles
        workers = [
            threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(max(0.0, self._deadline - time.monotonic()))
        if any(worker.is_alive() for worker in workers):
            print("It hangs:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback()  # by a thread that runs Python: one in C may meet a stack in change
            os._exit(1)

    def _work(self, number: int) -> None:
        while True:
            with self._lock:
                self._left -= 1
                left = self._left
            if left < 0:
                return
            chance = random.Random(f"{self._seed} {left}")
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            try:
                self._cycle(kind, f"t{number}", chance)
            except Exception as error:  # noqa: BLE001 - whatever it is, the test is to hear of it
                self.wrong.append(f"{kind}: {type(error).__name__}: {error}")
            self.counts[kind] += 1

    def _cycle(self, kind: str, name: str, chance: random.Random) -> None:
        if kind == "shared":
            self._compete(chance)
            return
        spec = ServerSpec("tiny", name=name, executable=self.executable, env=tuple(QUICK.items()))
        server = self.manager.start(spec, wait=False).server
        if kind == "when ready":
            server.wait(LAUNCH_LIMIT)
        elif kind != "at once":
            self._until_launched(server)
            time.sleep(chance.random() * 0.2)
        if kind in ("leader", "inner", "outer", "guards"):
            self._kill(server.pid, kind)
            if chance.random() < 0.5:
                server._run.wait_over(LAUNCH_LIMIT)
        try:
            server.stop(grace=chance.choice((None, 0.0, 0.1)))
        except ReleaseFailed as error:
            self.wrong.append(f"{kind}: {error}")
        except VllmMagicError:
            self.counts["failed"] += 1
        if server.release is None or not server.release.verified:
            self.wrong.append(f"{kind}: the release of {name} is {server.release}")

    def _compete(self, chance: random.Random) -> None:
        """All threads want one name, some with other words: one wins, the others hear of it."""
        length = str(chance.choice((64, 128)))
        spec = ServerSpec(
            "tiny",
            ("--max-model-len", length),
            name="shared",
            executable=self.executable,
            env=tuple(QUICK.items()),
        )
        try:
            self.manager.start(spec, wait=chance.random() < 0.3, timeout=LAUNCH_LIMIT)
            self.manager.stop("shared", grace=0.0)
        except (NameInUse, ServerNotFound):
            self.counts["refused"] += 1
        except ReleaseFailed as error:
            self.wrong.append(f"shared: {error}")
        except VllmMagicError:
            self.counts["failed"] += 1

    @staticmethod
    def _until_launched(server) -> None:
        deadline = time.monotonic() + LAUNCH_LIMIT
        while server.pid is None and not server.state.over:
            if time.monotonic() > deadline:
                raise AssertionError("never launched")
            time.sleep(0.005)

    def _kill(self, leader: int | None, whom: str) -> None:
        process = processes.read(leader or 0)
        inner = process and processes.read(process.parent)
        outer = inner and processes.read(inner.parent)
        if not outer or outer.parent != os.getpid():
            self.counts["too late to kill"] += 1
            return
        victims = {"leader": [process], "inner": [inner], "outer": [outer], "guards": [outer, inner]}[whom]
        for victim in victims:
            self.counts["killed"] += pidfd.send(victim.identity, signal.SIGKILL)


def held(manager: Manager) -> dict[str, int]:
    """What this process holds: descriptors, threads, children (dead ones too), and memory in KiB."""
    manager.gpus()  # its child lives from then on, and has its connection; it is started again when it was too slow
    gc.collect()
    status = Path("/proc/self/status").read_text().split()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": int(status[status.index("Threads:") + 1]),
        "children": len(processes.children(os.getpid())),
        "rss": int(status[status.index("VmRSS:") + 1]),
    }


def main() -> None:
    executable, cycles, threads, seed, limit = sys.argv[1], *map(int, sys.argv[2:])
    began = time.monotonic()
    warm_up = int(cycles * WARM_UP)
    stress = Stress(executable, seed, limit)
    stress.run(warm_up, threads)
    before, lasting = held(stress.manager), threading.enumerate()
    stress.run(cycles - warm_up, threads)
    stress.manager.stop_all(grace=0.0)
    for thread in set(threading.enumerate()) - set(lasting):
        thread.join(ENDING)  # of a server whose end is known; the thread itself may have to end yet
    after = held(stress.manager)
    stress.manager.close()
    report = {
        "seconds": round(time.monotonic() - began, 1),
        "counts": stress.counts,
        "wrong": stress.wrong,
        "before": before,
        "after": after,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
