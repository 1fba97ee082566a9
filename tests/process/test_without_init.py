"""In a container whose first process is no init, as a notebook server, of a user who is not root outside (rootless Podman).

Nobody there reaps the processes whose parent is gone: they stay as zombies, and are taken for ended all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
FIRST_PROCESS = """
import os
import by_hand, vllm_magic
from vllm_magic import ledger
from vllm_magic.cli import main
from vllm_magic.linux import processes

assert os.getpid() == processes.INIT
server = vllm_magic.start("tiny", name="own")
print(server.stop().verified)
with by_hand.kernel("other") as kernel:
    by_hand.kill_with_guards(kernel)
    print(main(["reap"]), flush=True)
names = {one.name for one in processes.table().values() if one.state == "Z"}
print("vllm" in names, ledger.entries())
"""


def test_servers_are_released(home, executable):
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [*CONTAINER, sys.executable, "-c", FIRST_PROCESS],
        env={
            **os.environ,
            "VLLM_MAGIC_EXECUTABLE": executable,
            "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    own, reaped, status, after = done.stdout.splitlines()
    assert own == "True"
    assert reaped.startswith("other was left by a kernel that died: ")
    assert status == "0"
    assert after == "True []"
