"""A real Ray cluster of two nodes on this machine, with pretended GPUs: one at the head, two at the other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stand_in import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

RAY = Path(__file__).resolve().parents[2] / ".venv/ray/bin"  # made by `make .venv/.ray`
# Ray replaces 127.0.0.1 by the machine's own address; nodes of one machine need addresses of their own.
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
LIMIT = 180.0
LOOK = 0.1


def until(condition: Callable[[], Any], limit: float = LIMIT) -> float:
    """Wait until it holds; the seconds that took."""
    pause, began = threading.Event(), time.monotonic()
    while not condition():
        assert time.monotonic() < began + limit
        pause.wait(LOOK)
    return time.monotonic() - began


class Cluster:
    """The cluster; `close` ends all of it.

    Attributes:
        home: the state folder of what runs on its nodes.
        address: of its dashboard.
    """

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        assert (RAY / "ray").exists(), "NEEDS Ray: make .venv/.ray"
        self.home = home
        self._env = {
            **os.environ,
            **env,
            "VLLM_MAGIC_HOME": str(home),
            leftovers.HOME: str(home),
            "RAY_USAGE_STATS_ENABLED": "0",
            # No worker processes ahead of need: the jobs of these tests use none, and each costs a second or two of CPU.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",  # between two reports of what is in use
            "PATH": f"{RAY}:{os.environ['PATH']}",
        }
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets want a short path
        self._gcs, self._dashboard = _free_port(), _free_port()
        self.address = f"http://127.0.0.1:{self._dashboard}"
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            self.start_head()
            self.start_other()
            until(lambda: len(self.alive()) == 2)
        except BaseException:
            self.close()
            raise

    def start_head(self) -> None:
        """Start the node with the head."""
        self._start(
            HEAD,
            *("--head", f"--port={self._gcs}", f"--dashboard-port={self._dashboard}"),
            *("--dashboard-host=127.0.0.1", f"--temp-dir={self._folder}", "--num-gpus=1"),
        )
        until(lambda: self.get("/api/version"))

    def start_other(self) -> None:
        """Start the other node."""
        self._start(OTHER, f"--address={HEAD}:{self._gcs}", "--num-gpus=2")

    def _start(self, ip: str, *words: str) -> None:
        shared = ("--num-cpus=4", "--object-store-memory=80000000", "--include-log-monitor=false", "--block")
        own = (
            f"--node-ip-address={ip}",
            f"--node-name=node-{ip}",
            f"--dashboard-agent-listen-port={_free_port()}",
        )
        with open(f"{self._folder}/{ip}.log", "ab") as log:
            self._nodes[ip] = subprocess.Popen(
                [str(RAY / "ray"), "start", *words, *own, *shared],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def get(self, path: str) -> Any:
        """What the dashboard answers; None where it does not."""
        token = self._env.get("RAY_AUTH_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            request = urllib.request.Request(f"{self.address}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def alive(self) -> list[str]:
        """The addresses of the nodes that live."""
        nodes = self.get("/api/v0/nodes?limit=100")
        found = nodes["data"]["result"]["result"] if nodes else []
        return [one["node_ip"] for one in found if one["state"] == "ALIVE"]

    def jobs(self) -> dict[str, str]:
        """What became of each job."""
        return {one["submission_id"]: one["status"] for one in self.get("/api/jobs/") or []}

    def gpus_in_use(self) -> float:
        """Of all its GPUs; some seconds old."""
        status = self.get("/api/cluster_status")
        return float(status["data"]["clusterStatus"]["loadMetricsReport"]["usage"]["GPU"][0])

    def actors(self) -> list[str]:
        """The classes of the actors that live."""
        found = self.get("/api/v0/actors?limit=1000")["data"]["result"]["result"]
        return [one["class_name"] for one in found if one["state"] != "DEAD"]

    def freeze_head(self) -> None:
        """Have the head not answer."""
        self._to_head(signal.SIGSTOP)

    def thaw_head(self) -> None:
        """The other way."""
        self._to_head(signal.SIGCONT)

    def freeze_submission(self) -> None:
        """Have the head take no jobs, and answer all else."""
        until(self._takers)
        os.kill(*self._takers(), signal.SIGSTOP)

    def thaw_submission(self) -> None:
        """The other way."""
        os.kill(*self._takers(), signal.SIGCONT)

    def _takers(self) -> list[int]:
        children = _children(self._raylet(HEAD))
        return [
            pid for pid in children if b"ray::DashboardAgent" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def _to_head(self, number: int) -> None:
        for pid in _children(self._nodes[HEAD].pid):
            if (
                b"dashboard" in Path(f"/proc/{pid}/cmdline").read_bytes()
                or b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ):
                os.kill(pid, number)

    def kill_head(self) -> None:
        """SIGKILL all of the head, and what Ray does not end with it stays: the other node, for a minute."""
        children = _children(self._nodes[HEAD].pid)
        os.killpg(self._nodes[HEAD].pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._nodes[HEAD].wait(LIMIT)
        until(lambda: self.get("/api/version") is None)

    def start_head_again(self) -> None:
        """On the same ports; it has forgotten everything."""
        # On one machine Ray takes the old cluster's other node for a head that runs.
        Path(self._folder, "ray_current_cluster").unlink(missing_ok=True)
        self.start_head()

    def kill_raylet(self, ip: str) -> None:
        """SIGKILL the raylet of a node."""
        os.kill(self._raylet(ip), signal.SIGKILL)
        self._nodes[ip].wait(LIMIT)

    def repair(self) -> None:
        """Start the other node anew if it was killed, or if a new head does not know it."""
        node = self._nodes[OTHER]
        if node.poll() is None and OTHER in self.alive():
            return
        self._end(node)
        self.start_other()
        until(lambda: sorted(self.alive()) == [HEAD, OTHER])

    def _raylet(self, ip: str) -> int:
        (raylet,) = (
            pid
            for pid in _children(self._nodes[ip].pid)
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"raylet")
        )
        return raylet

    def close(self) -> None:
        """End it."""
        for node in reversed(self._nodes.values()):
            if node.poll() is None:
                node.terminate()
        for node in self._nodes.values():
            self._end(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, node: subprocess.Popen[bytes]) -> None:
        """End a node with SIGTERM, and what is left of it after 40 s with SIGKILL."""
        if node.poll() is None:
            node.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(40)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait(LIMIT)


def _children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has just ended
            found += [int(one) for one in task.read_text().split()]
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
