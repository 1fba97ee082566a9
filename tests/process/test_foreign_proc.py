"""With a /proc of another PID namespace, as after `unshare --pid --fork`, no process is started or ended."""

from __future__ import annotations

import json
import subprocess
import sys

import by_hand
import pytest
from by_hand import ByHand
from records import record

from vllm_magic.guard.protocol import LaunchRequest
from vllm_magic.linux import machine, processes

INSIDE = ["unshare", "--pid", "--fork", "--kill-child"]
WHY = "/proc shows another PID namespace"
START = """
import sys, vllm_magic
from vllm_magic.errors import VllmMagicError
try:
    vllm_magic.start("tiny", keep=60, timeout=20)
except VllmMagicError as error:
    print(type(error).__name__, error, flush=True)
else:
    print("started", flush=True)
"""
GUARDS = """
import json, sys
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.protocol import LaunchRequest, Refused
pair = GuardPair(LaunchRequest(**json.loads(sys.argv[1])))
while (messages := pair.receive()) is not None:
    for message in messages:
        print(type(message).__name__, *message, flush=True)
pair.close()
"""


def inside(*words: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in such a namespace."""
    return subprocess.run(
        [*INSIDE, sys.executable, *words], capture_output=True, text=True, timeout=by_hand.LIMIT, check=False
    )


def test_a_start_is_refused(home, executable, monkeypatch, traces):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    said = inside("-c", START).stdout
    assert said.startswith(f"StartFailed {WHY}")
    assert "mount -t proc proc /proc" in said
    traces.check()


def test_the_guards_refuse_too(tmp_path):
    folder, tmp = tmp_path / "folder", tmp_path / "folder" / "t"
    tmp.mkdir(parents=True)
    asked = LaunchRequest(
        argv=["/bin/sleep", "310"],
        env={},
        cwd="/",
        tmp=str(tmp),
        folder=str(folder),
        log=str(folder / "log"),
        keep_log=str(tmp_path / "kept.log"),
        locks=[],
        record=record()._asdict(),
    )
    said = inside("-c", GUARDS, json.dumps(asked._asdict())).stdout
    assert said.startswith("Refused 3 ")
    assert WHY in said
    assert not folder.exists()


@pytest.mark.usefixtures("home")
def test_a_doctor_says_it_and_a_reap_ends_nobody(executable):
    told = inside("-m", "vllm_magic", "doctor")
    assert told.returncode == 1
    assert WHY in " ".join(told.stdout.split())
    assert "mount -t proc proc /proc" in told.stdout
    server = ByHand(executable)
    try:
        engine = server.pid("::EngineCore")
        server.kill_server()
        reaped = inside("-m", "vllm_magic", "reap", "--pid", str(engine), "--yes")
        assert reaped.returncode == 1
        assert WHY in reaped.stderr
        assert processes.is_alive(by_hand.identity(engine))
    finally:
        server.end()


def test_this_one_is_right():
    assert machine.proc_problem() == ""
