"""What `vllm preload` and `vllm snapshot restore` look like from outside: their command lines, children and open files."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fake_gpu import fakegpu

if TYPE_CHECKING:
    from collections.abc import Iterator

# As in vllm/entrypoints/cli/preload.py and weight_cache/daemon.py (0.32): a daemon is spawned, holds its lock, has no title.
PRELOAD = """
import fcntl, multiprocessing, os, signal, sys, tempfile
from fake_gpu import fakegpu

def run_daemon(folder, gib):
    lock = os.open(f"{folder}/vllm_weight_cache_0a1b.sock.lock", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fakegpu.hold(int(gib * 2**30))
    print(os.getpid(), flush=True)
    signal.pause()

if __name__ == "__main__":
    daemon = multiprocessing.get_context("spawn").Process(
        target=run_daemon, args=(os.path.dirname(__file__), float(os.environ["HELD_GIB"]))
    )
    daemon.start()
    daemon.join()
"""

# As in vllm/snapshot/runtime.py (`launch_child`): the engine is a child of the server.
SNAPSHOT_SERVER = """
import os, signal
from fake_gpu import fakegpu
from setproctitle import setproctitle

if os.fork() == 0:
    setproctitle("VLLM::EngineCore")
    fakegpu.hold(int(float(os.environ["HELD_GIB"]) * 2**30))
    print(os.getpid(), flush=True)
signal.pause()
"""


@contextlib.contextmanager
def preloading(
    driver: Path, folder: Path, gib: float, model: str = "tiny"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `vllm preload --model MODEL`, whose daemon holds memory; yield the command and the pid of the daemon."""
    script = folder / "preload" / "vllm"
    script.parent.mkdir()
    script.write_text(PRELOAD)
    with _running([str(script), "preload", "--model", model], driver, gib) as running:
        yield running


@contextlib.contextmanager
def snapshot(
    driver: Path, folder: Path, gib: float, model: str = "tiny"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the server of a snapshot, whose engine holds memory; yield the server and the pid of the engine."""
    package = folder / "snapshot" / "vllm" / "snapshot"
    package.mkdir(parents=True)
    for path in (package.parent / "__init__.py", package / "__init__.py"):
        path.write_text("")
    (package / "server.py").write_text(SNAPSHOT_SERVER)
    words = ["-m", "vllm.snapshot.server", "--ready-file", "r", "--release-file", "f", "--", model]
    with _running(words, driver, gib, str(package.parent.parent)) as running:
        yield running


@contextlib.contextmanager
def _running(
    words: list[str], driver: Path, gib: float, *paths: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    path = os.pathsep.join([*paths, str(Path(__file__).parent)])
    environment = {**fakegpu.env(driver), "PYTHONPATH": path, "HELD_GIB": str(gib)}
    holder = 0
    with subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout
            holder = int(process.stdout.readline())
            yield process, holder
        finally:
            process.kill()
            if holder:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(holder, signal.SIGKILL)
