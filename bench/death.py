"""From a kernel's SIGKILL to nothing left of its server."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from bench.kernel import kernel
from bench.raw import READY_LIMIT, SILENT
from bench.target import LOOPBACK, free_port
from vllm_magic.linux import pidfd, processes

if TYPE_CHECKING:
    from bench.target import Target
    from vllm_magic.linux.processes import Identity

KILL_LIMIT = 60.0  # seconds for everything of ours to be gone

OURS = """
import json, os, shlex
server = get_ipython().run_line_magic("vllm", "start " + shlex.join({words}))
leader = server.pid
"""

# As one does without: a child in a session of its own.
BARE = """
import json, os, subprocess, time, urllib.request
leader = subprocess.Popen(
    [{executable!r}, "serve", *{words}, "--host", {host!r}, "--port", "{port}"],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
).pid
deadline = time.monotonic() + 300
while time.monotonic() < deadline:
    try:
        urllib.request.urlopen("http://{host}:{port}/health")
        break
    except OSError:
        time.sleep(0.05)
"""

TELL = "\nwith open({path!r}, 'w') as file: json.dump([os.getpid(), leader], file)\n"


def death_seconds(target: Target) -> float:
    """Seconds from the SIGKILL of a kernel with a ready server of ours until its last process was gone.

    Raises:
        RuntimeError: something lives after `KILL_LIMIT`.
    """
    took = _kill(target, OURS.format(words=[target.model, *target.flags]), KILL_LIMIT)
    if took is None:
        raise RuntimeError(f"something lives {KILL_LIMIT:g} s after the kernel was killed")
    return took


def bare_death_seconds(target: Target) -> float | None:
    """The same of a bare `vllm serve`; None where something of it lives after `SILENT`, which is ended then."""
    words = [target.model, *target.flags]
    code = BARE.format(executable=target.executable, words=words, host=LOOPBACK, port=free_port())
    return _kill(target, code, SILENT)


def _kill(target: Target, code: str, limit: float) -> float | None:
    path = target.folder / "pids.json"
    with kernel(target) as client:
        client.execute_interactive(code + TELL.format(path=str(path)), timeout=READY_LIMIT)
        pid, leader = json.loads(path.read_text())
        session = _session(leader)
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        while session:
            if pidfd.wait_for_all(session, began + limit - time.monotonic()):
                break
            session = _session(leader)  # some may have been born meanwhile
        took = time.monotonic() - began
    for one in session:
        pidfd.send(one, signal.SIGKILL)
    return None if session else took


def _session(leader: int) -> set[Identity]:
    table = processes.table()
    return {table[pid].identity for pid in processes.session_members(table, leader) if table[pid].alive}
