"""Starts, questions and stops that are interrupted at random moments: a program for test_stress.py.

    python interrupts.py EXECUTABLE ROUNDS SEED

Prints what happened as one JSON object. The interrupts are real ones, SIGINT to this process, as of a notebook's button.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import sys
import threading

import stand_in

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import ReleaseFailed, StartInterrupted
from vllm_magic.manager.manager import Manager

STEPS = {"start": 0.6, "question": 0.2, "stop": 0.3}  # seconds that each takes, roughly


@contextlib.contextmanager
def interrupted(after: float | None):
    """The block is interrupted after so many seconds, in its middle or just behind it; None for not at all."""
    if after is None:
        yield
        return
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
        timer.join()  # the interrupt comes here then
    finally:
        timer.cancel()


def main() -> None:
    executable, rounds, seed = sys.argv[1], *map(int, sys.argv[2:])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance = random.Random(seed)
    env = tuple(stand_in.options(token_s=0.01).items())
    manager = Manager()
    counts: collections.Counter[str] = collections.Counter()
    wrong = []
    for number in range(rounds):
        chosen = chance.choice(list(STEPS))
        after = chance.random() * STEPS[chosen]
        moments = {step: after if step == chosen else None for step in STEPS}
        try:
            with interrupted(moments["start"]):
                server = manager.start(ServerSpec("tiny", name="m", executable=executable, env=env)).server
            with interrupted(moments["question"]):
                server.complete("a", max_tokens=20)
            with interrupted(moments["stop"]):
                manager.stop("m")
        except (KeyboardInterrupt, StartInterrupted):
            counts[chosen] += 1
        try:
            wrong += [f"{number} {chosen}: {one}" for one in manager.stop_all() if not one.verified]
        except ReleaseFailed as error:
            wrong.append(f"{number} {chosen}: {error}")
        if manager.servers():
            wrong.append(f"{number} {chosen}: {manager.servers()}")
    manager.close()
    print(json.dumps({"counts": counts, "wrong": wrong}))


if __name__ == "__main__":
    main()
