"""A spare of vLLM itself: what comes of it is what `vllm serve` comes to, only sooner."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.real.environment import FLAGS
from vllm_magic.engine import executable
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.linux import processes
from vllm_magic.provisioning.base import StartKind
from vllm_magic.provisioning.standby import LATE_VARIABLES
from vllm_magic.provisioning.standby_pool import StandbyMode

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]

LIMIT = 240.0
FORK = Path(__file__).with_name("fork_plugin")


def until(condition) -> None:
    pause, end = threading.Event(), time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.1)


def told(server) -> dict[str, object]:
    """What a user, a monitor and a log reader can tell of it, without what is another in each run."""
    models = httpx.get(
        f"{server.base_url}/models", headers={"Authorization": f"Bearer {server.api_key}"}, timeout=30
    ).json()
    for model in models["data"]:
        model.pop("created")
        for permission in model["permission"]:
            permission.pop("id")
            permission.pop("created")
    metrics = httpx.get(f"{server.url}/metrics", timeout=30).text
    titles = [processes.title(one.identity.pid) for one in server.processes()]
    return {
        "answer": server.chat("Say something.", max_tokens=8, temperature=0).text,
        "models": models,
        "metrics": sorted(set(re.findall(r"^# TYPE (\S+ \S+)$", metrics, re.MULTILINE))),
        "names": sorted(one.name for one in server.processes()),
        "titles": sorted(re.sub(r"--port \d+|-c .*", "", title) for title in titles),
        "cwd": {str(Path(f"/proc/{one.identity.pid}/cwd").readlink()) for one in server.processes()},
    }


def test_cold_warm_and_forked_are_the_same(vllm, manager, traces):
    """Answers, metrics and titles are vLLM's own; so is what its imports leave behind."""
    spec = ServerSpec(
        str(vllm.model),
        FLAGS,
        "real",
        executable=str(vllm.executable),
        env=tuple(sorted({**vllm.env, "PYTHONPATH": str(FORK)}.items())),
    )
    cold = manager.start(spec).server
    assert cold.start_kind is StartKind.COLD
    expected = told(cold)
    assert cold.stop().verified
    for method in ("spawn", "fork"):
        manager.spares.set_mode(StandbyMode.ON)
        manager.expect(spec)
        until(lambda: manager.spares.status().warm)
        forked = ServerSpec(
            spec.model, spec.args, "real", executable=spec.executable,
            env=tuple(sorted({**dict(spec.env), "VLLM_WORKER_MULTIPROC_METHOD": method}.items())),
        )  # fmt: skip
        warm = manager.start(forked).server
        assert (warm.start_kind, warm.cold_because) == (StartKind.WARM, "")
        assert told(warm) == expected
        assert warm.stop().verified
        manager.spares.set_mode(StandbyMode.OFF)
        assert manager.spares.wait_gone()
    traces.check()


READS = """
import os, sys, traceback
late = set(sys.argv[1].split(","))
inherited = type(os.environ)

def look(name):
    if name in late:
        places = [frame for frame in traceback.extract_stack() if "vllm/" in frame.filename]
        print("READ", name, *(f"{frame.filename}:{frame.lineno}" for frame in places[-1:]))

class Watched(inherited):
    def __getitem__(self, name):
        look(name)
        return super().__getitem__(name)

    def __contains__(self, name):
        look(name)
        return super().__contains__(name)

os.environ.__class__ = Watched
sys.argv = ["vllm"]
sys.path[0] = sys.argv[0]
sys.modules.pop("spare", None)
import importlib, pkgutil
commands = importlib.import_module("vllm.entrypoints.cli")
for module in pkgutil.iter_modules(commands.__path__, "vllm.entrypoints.cli."):
    try:
        importlib.import_module(module.name)
    except ImportError:
        pass
"""


def test_what_may_differ_is_not_read_by_an_import(vllm):
    """But for one: whether there is any GPU to be seen at all, which `StandbySpec` compares."""
    python = executable.interpreter(str(vllm.executable))
    run = subprocess.run(
        [*python, "-c", READS, ",".join(LATE_VARIABLES)],
        env={**os.environ, **vllm.env},
        capture_output=True,
        text=True,
        check=True,
    )
    read = {line.split()[1]: line.split()[2:] for line in run.stdout.splitlines() if line.startswith("READ")}
    assert read.keys() <= {"CUDA_VISIBLE_DEVICES"}
    assert all("triton_utils/importing.py" in place for place in read.get("CUDA_VISIBLE_DEVICES", ()))
