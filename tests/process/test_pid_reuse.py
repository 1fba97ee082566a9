"""A process that has got the pid of a dead server is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("pid_reuse.py")


def test_other_processes_with_the_pids_of_a_dead_server_are_left_alone(home, executable):
    """In a PID namespace, whose processes all end with its first process."""
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, str(PROGRAM)],
        env={**os.environ, "VLLM_MAGIC_EXECUTABLE": executable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["taken"] == found["of"]
    assert found["gone"] == []
    assert found["entries"] == 0  # there was nothing to release, and the folder went
