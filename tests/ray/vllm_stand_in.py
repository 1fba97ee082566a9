"""A stand-in for `vllm serve ... --distributed-executor-backend ray`: its workers are Ray actors on both nodes.

Run by Ray's Python: `vllm_stand_in.py serve MODEL --host HOST --port PORT ...`. With $LEAK they are detached, and so outlive it.
Where there is a fake driver, each holds memory of a GPU.
"""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LEAK = bool(os.environ.get("LEAK"))


@ray.remote(num_gpus=1, num_cpus=0)
class Worker:
    def __init__(self, rank: int) -> None:
        if "FAKE_GPU_DIR" in os.environ:
            sys.path.append(TESTS)
            from fake_gpu import fakegpu

            self.held = fakegpu.hold(2**30, rank)

    def pid(self) -> int:
        return os.getpid()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()


def main() -> None:
    ray.init(address="auto", log_to_driver=False, namespace="stand-in")
    lifetime = "detached" if LEAK else None
    group = placement_group([{"GPU": 1}] * 2, strategy="STRICT_SPREAD", lifetime=lifetime)
    ray.get(group.ready(), timeout=60)
    workers = [
        Worker.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, number),
            **({"lifetime": "detached", "name": f"worker-{number}"} if LEAK else {}),
        ).remote(number)
        for number in range(2)
    ]
    print("workers", ray.get([worker.pid.remote() for worker in workers]), flush=True)
    words = dict(zip(sys.argv, sys.argv[1:], strict=False))
    HTTPServer((words["--host"], int(words["--port"])), Answer).serve_forever()


main()
