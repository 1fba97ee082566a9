"""What the probe says of a real driver."""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from vllm_magic.gpu.choice import choose, cuda_visible_devices
from vllm_magic.gpu.holders import device_files, holders

if TYPE_CHECKING:
    from vllm_magic.gpu.devices import Gpu
    from vllm_magic.gpu.probe import Probe

pytestmark = pytest.mark.gpu

MIB = 2**20
LONG = 60.0  # seconds; no test waits this long unless it fails

# A tree of two processes, each with a CUDA context and 512 MiB; the child is in a session of its own.
TREE = """
import subprocess, sys, torch
child = None
if sys.argv[1] == "parent":
    words = [sys.executable, "-c", sys.argv[2], "child"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    child.stdout.readline()
held = torch.ones(512 * 2**20, dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
print(child.pid if child else "", flush=True)
sys.stdin.read()
"""


def used(probe: Probe, gpu: Gpu) -> int:
    now = next(one for one in probe.snapshot(LONG).gpus if one.uuid == gpu.uuid)
    if now.used is None:
        pytest.skip("NEEDS MEMORY FIGURES: this GPU shares the memory of the machine")
    return now.used


def test_a_snapshot_agrees_with_nvidia_smi(probe: Probe) -> None:
    if not shutil.which("nvidia-smi"):
        pytest.skip("NEEDS nvidia-smi")
    query = [
        "nvidia-smi",
        "--query-gpu=uuid,name,driver_version,memory.total,memory.used",
        "--format=csv,noheader,nounits",
    ]
    lines = subprocess.run(query, check=True, capture_output=True, text=True).stdout.splitlines()
    snapshot = probe.snapshot(LONG)
    assert len(lines) == len(snapshot.gpus)
    for line in lines:
        uuid, name, driver, total, in_use = line.split(", ")
        gpu = next((one for one in snapshot.gpus if one.uuid == uuid), None)
        assert gpu
        assert (gpu.name, snapshot.driver) == (name, driver)
        if gpu.total is not None and gpu.used is not None:
            assert gpu.total / MIB == pytest.approx(int(total), rel=0.05)
            assert gpu.used / MIB == pytest.approx(int(in_use), abs=1024)


def test_a_killed_tree_gives_its_memory_back(probe: Probe) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("NEEDS torch")
    (gpu,) = choose("auto", probe.snapshot(LONG), fraction=0.2)
    before = used(probe, gpu)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": cuda_visible_devices([gpu])}
    with subprocess.Popen(
        [sys.executable, "-c", TREE, "parent", TREE],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        tree = [parent.pid, child]
        handles = [os.pidfd_open(pid) for pid in tree]
        assert used(probe, gpu) >= before + 1024 * MIB
        assert set(holders(device_files(), pids=tree).by_pid) == set(tree)
        for handle in handles:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            assert select.select([handle], [], [], LONG)[0]
            os.close(handle)
    assert holders(device_files(), pids=tree).by_pid == {}
    deadline = time.monotonic() + LONG
    while used(probe, gpu) > before + 64 * MIB:
        assert time.monotonic() < deadline
        time.sleep(0.1)
