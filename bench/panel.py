"""What an open panel costs its kernel: a client plays the view, as JupyterLab would, of three idle stand-ins for vLLM."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from bench.cells import printed, put_out
from bench.kernel import kernel
from bench.usage import share
from tests import stand_in
from tests.fake_gpu import fakegpu

if TYPE_CHECKING:
    from jupyter_client.blocking.client import BlockingKernelClient

    from bench.target import Target

SERVERS = 3
WATCHED = 30.0  # seconds
HERE = 5.0  # seconds between two signs of life of a view, as in heartbeat.js
CALM = 3.0  # seconds after which nothing changes any more
START = """
import vllm_magic, vllm_magic.manager.manager
for gpu in range({servers}):
    vllm_magic.start("tiny", name=f"tiny{{gpu}}", gpus=str(gpu))
"""


class Cost(NamedTuple):
    """What was measured.

    Attributes:
        idle: share of a core that the kernel takes without a server.
        without: the same with the servers, idle, and no panel.
        within: the same with a panel.
        traffic: bytes a second of all messages that the kernel puts out meanwhile, with everything in them.
    """

    idle: float
    without: float
    within: float
    traffic: float


def stand_ins(target: Target) -> Target:
    """A target with a stand-in for vLLM, and a fake driver with a GPU for each server."""
    folder = target.folder / "panel"
    driver = fakegpu.env(fakegpu.build(folder / "gpu", gpus=SERVERS))
    changed = {name: value for name, value in driver.items() if os.environ.get(name) != value}
    return replace(target, executable=str(stand_in.install(folder)), model="tiny", env=changed)


def measure(target: Target) -> Cost:
    """Watch a kernel for half a minute without a server, with servers, and with a panel."""
    with kernel(target) as client:
        pid = int(printed(client, "import os; print(os.getpid())"))
        idle, _ = share((pid,), lambda: time.sleep(WATCHED))
        printed(client, START.format(servers=SERVERS))
        time.sleep(CALM)
        without, _ = share((pid,), lambda: time.sleep(WATCHED))
        _, view = _open(client)
        _say(client, view, "hello")
        _watch(client, view, CALM)
        within, came = share((pid,), lambda: _watch(client, view, WATCHED))
        printed(client, "%vllm stop --all")
    return Cost(idle, without, within, came / WATCHED)


def opening_seconds(target: Target, times: int) -> list[float]:
    """Return how long `%vllm panel` takes in each of so many kernels, which have the extension and no server yet.

    One more before them is not measured: it compiles, as pip does when it installs a package.
    """
    took = []
    for _ in range(times + 1):
        with kernel(target) as client:
            printed(client, "import vllm_magic.manager.manager")
            took.append(_open(client)[0])
    return took[1:]


def _open(client: BlockingKernelClient) -> tuple[float, str]:
    """Run the cell; return how long it took, and the id of the comm of what it shows."""
    began = time.perf_counter()
    seen = put_out(client, "%vllm panel")
    took = time.perf_counter() - began
    for content in seen:
        if shown := content.get("data", {}).get("application/vnd.jupyter.widget-view+json"):
            return took, str(shown["model_id"])
    raise RuntimeError("%vllm panel shows no widget")


def _watch(client: BlockingKernelClient, view: str, seconds: float) -> int:
    """Be there for so long, and return how many bytes came."""
    socket = client.iopub_channel.socket
    now = time.monotonic()
    end, told, came = now + seconds, now, 0
    while now < end:
        if now >= told + HERE:
            _say(client, view, "heartbeat")
            told = now
        if socket.poll(int(1000 * min(end, told + HERE) - 1000 * now) + 1):
            came += sum(map(len, socket.recv_multipart()))
        now = time.monotonic()
    return came


def _say(client: BlockingKernelClient, view: str, kind: str) -> None:
    """Send what the view's `model.send` would."""
    content = {"kind": kind, "view": "bench", "tab": "log"}
    data = {"method": "custom", "content": content}
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": view, "data": data}))
