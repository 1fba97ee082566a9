"""What runs in the host: it starts the servers by one method, and does what the stage says.

The stage listens on a Unix socket and speaks JSON lines. The host says ``{"pid", "servers"}``; hears "stop", stops
the servers that are to be in that phase, and says "stopping"; hears "act", and goes on with the code that the death
puts behind `begin`. An error is said as ``{"error"}``, because a kernel shows it to its clients alone.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAN = "MATRIX_PLAN"
MARK = "MATRIX_CELL"


def begin(*, threaded: bool = False) -> None:
    """Start everything, from a thread that ends then if so asked; returns when the stage wants the death."""
    with open(os.environ[PLAN], encoding="utf-8") as file:
        plan = json.load(file)
    control = socket.socket(socket.AF_UNIX)
    control.connect(plan["socket"])
    lines = control.makefile("r", encoding="utf-8")

    def say(**message: Any) -> None:
        control.sendall(json.dumps(message).encode() + b"\n")

    start, stop = METHODS[plan["method"]]
    with _errors_said(say):
        servers = _in_a_thread(start, plan) if threaded else start(plan)
    say(pid=os.getpid(), servers=servers)
    assert lines.readline() == "stop\n"
    with _errors_said(say):
        stop(plan)
    say(stopping=True)
    assert lines.readline() == "act\n"
    _kept.append(control)  # open as long as the host lives


_kept: list[Any] = []


@contextlib.contextmanager
def _errors_said(say: Callable[..., None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        say(error=traceback.format_exc())
        raise


def _in_a_thread(start: Callable[[dict[str, Any]], dict[str, Any]], plan: dict[str, Any]) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(start, plan).result()


def _environment(plan: dict[str, Any], cell: dict[str, Any]) -> dict[str, str]:
    return {"STAND_IN": json.dumps(cell["options"]), MARK: f"{plan['id']}-{cell['name']}"}


def _vllm_magic(plan: dict[str, Any]) -> dict[str, Any]:
    import vllm_magic
    from vllm_magic.manager.manager import manager
    from vllm_magic.provisioning.base import StartKind

    manager._server_changed = manager._sampler.note_change  # no spare but those that are asked for
    servers = {}
    wanted = [cell for cell in plan["cells"] if not cell["waits"]]
    for cell in sorted(
        wanted, key=lambda cell: not cell["warm"]
    ):  # one spare at a time, before the others are in the way
        if cell["warm"]:
            _make_spare(plan, cell)
        servers[cell["name"]] = vllm_magic.start(
            "tiny",
            *cell["args"],
            name=cell["name"],
            port=cell["port"],
            env=_environment(plan, cell),
            wait=False,
        )
        while cell["warm"] and servers[cell["name"]].pid is None:  # the stage limits this, and all below
            time.sleep(0.01)
    for cell in wanted:
        server = servers[cell["name"]]
        if cell["answers"]:
            server.wait(120)
        while server.pid is None:
            time.sleep(0.02)
        expected = StartKind.WARM if cell["warm"] else StartKind.COLD
        assert server.start_kind is expected, (server, server.cold_because)
    known = {
        name: {"key": server.api_key, "folder": str(server.log_path.parent)}
        for name, server in servers.items()
    }
    return known | {cell["name"]: _wait_as_spare(plan, cell) for cell in plan["cells"] if cell["waits"]}


def _make_spare(plan: dict[str, Any], cell: dict[str, Any]) -> None:
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.manager.manager import manager
    from vllm_magic.provisioning.standby_pool import StandbyMode

    manager.spares.set_mode(StandbyMode.ON)
    manager.expect(ServerSpec("tiny", env=tuple(_environment(plan, cell).items())))


def _wait_as_spare(plan: dict[str, Any], cell: dict[str, Any]) -> dict[str, str]:
    from vllm_magic import ledger
    from vllm_magic.guard.record import Phase
    from vllm_magic.manager.manager import manager

    _make_spare(plan, cell)
    while not manager.spares.status().warm:
        time.sleep(0.01)
    (spare,) = [one for one in ledger.entries() if one.record and one.record.phase == Phase.SPARE]
    return {"key": "", "folder": str(spare.path)}


def _stop_vllm_magic(plan: dict[str, Any]) -> None:
    import vllm_magic

    for cell in plan["cells"]:
        if cell["stops"]:
            vllm_magic.servers()[cell["name"]]._run.begin_stop()


def _popen(
    plan: dict[str, Any], *, new_session: bool
) -> tuple[list[subprocess.Popen[bytes]], dict[str, Any]]:
    processes, servers = [], {}
    for cell in plan["cells"]:
        folder = os.path.join(plan["home"], cell["name"])
        os.makedirs(os.path.join(folder, "t"))
        with open(os.path.join(folder, "log"), "wb") as log:
            processes.append(
                subprocess.Popen(
                    [plan["executable"], "serve", "tiny", "--port", str(cell["port"]), *cell["args"]],
                    env={
                        **os.environ,
                        **_environment(plan, cell),
                        "TMPDIR": os.path.join(folder, "t"),
                        "SPT_NOENV": "1",
                    },
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=new_session,
                )
            )
        servers[cell["name"]] = {"key": "", "folder": folder}
    return processes, servers


def _terminate(plan: dict[str, Any]) -> dict[str, Any]:
    """`Popen`, and `terminate()` at exit."""
    processes, servers = _popen(plan, new_session=False)

    def end() -> None:
        for process in processes:
            process.terminate()

    atexit.register(end)
    return servers


def _killpg(plan: dict[str, Any]) -> dict[str, Any]:
    """`Popen` in a session of its own, and SIGTERM to its process group at exit."""
    processes, servers = _popen(plan, new_session=True)

    def end() -> None:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)

    atexit.register(end)
    return servers


def _psutil(plan: dict[str, Any]) -> dict[str, Any]:
    """`Popen` in a session of its own, and at exit a kill of it and of what psutil finds below it."""
    import psutil

    processes, servers = _popen(plan, new_session=True)

    def end() -> None:
        for process in processes:
            leader = psutil.Process(process.pid)
            for one in [*leader.children(recursive=True), leader]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()

    atexit.register(end)
    return servers


def _no_stop(_plan: dict[str, Any]) -> None:
    pass


METHODS = {
    "vllm_magic": (_vllm_magic, _stop_vllm_magic),
    "terminate": (_terminate, _no_stop),
    "killpg": (_killpg, _no_stop),
    "psutil": (_psutil, _no_stop),
}
