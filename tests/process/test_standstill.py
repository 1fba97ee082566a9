"""A start that takes too long says what it waits for, and shows the end of its log."""

from __future__ import annotations

import fcntl
import subprocess
import sys

import pytest
from by_hand import until

from vllm_magic.engine.startup import standstill
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.errors import StartTimeout
from vllm_magic.lifecycle import monitor
from vllm_magic.server.progress_text import line

HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); sys.stdin.read()"


def test_a_lock_of_the_cache_that_another_process_holds(manager, spec, tmp_path, monkeypatch, traces):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    lock = tmp_path / "hub" / ".locks" / "models--a--b" / "0f.lock"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline()
        one = spec("a/b", faults={"hang_in": "load"})
        said = f"a lock of the Hugging Face cache that process {other.pid} holds ({lock})"
        assert standstill.by_lock(lock.parent, ()) == said
        assert standstill.by_lock(lock.parent, {other.pid}) == ""
        monkeypatch.setattr(monitor, "STANDSTILL_AFTER", 0.5)
        server = manager.start(one, wait=False).server
        until(lambda: f"waits for {said}" in line(server.status), "it is not said")
        with pytest.raises(StartTimeout) as late:
            server.wait(3)
        assert f". It waits for {said}. " in str(late.value)
        other.stdin.close()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # a shared lock does not count
        assert standstill.by_lock(lock.parent, ()) == ""
    manager.stop()
    traces.check()


def test_the_end_of_the_log_is_shown(manager, spec):
    server = manager.start(spec(faults={"hang_in": "load"}), wait=False).server
    until(lambda: server.progress.stage is Stage.LOADING, "it does not load")
    with pytest.raises(StartTimeout) as late:
        server.wait(0.1)
    assert late.value.log_tail == tuple(server.log(5))
    assert late.value.log_tail


@pytest.mark.parametrize(
    ("text", "waits_for"),
    [
        (
            "(Worker_TP0 pid=88) INFO 06-20 12:27:30 [pynccl.py:113] vLLM is using nccl==2.28.9",
            standstill.NCCL,
        ),
        (
            (
                "INFO 06-20 12:27:30 [parallel_state.py:1823] world_size=2 rank=0 local_rank=0 "
                "distributed_init_method=tcp://127.0.0.1:40019 backend=nccl"
            ),
            standstill.NCCL,
        ),
        ("INFO 06-20 12:27:30 [weight_utils.py:1] Loading safetensors", ""),
    ],
)
def test_what_the_log_says(text, waits_for):
    assert standstill.by_log(["other", text]) == waits_for
    assert standstill.by_log([text, "other"]) == ""
    assert standstill.by_log([]) == ""
