"""A process that has imported what ``vllm serve`` imports, and waits to be told what to serve: then it is the leader.

Run as ``PYTHON spare.py EXECUTABLE ROOM`` by vLLM's own Python, in which nothing of ours is, with one end of a
socketpair as its standard input. On that it says, a line each::

    warm            what vLLM needs is imported, and nothing of CUDA was begun
    taken           the order came; from here on vLLM's console script runs, as if it had been executed
    unfit REASON    it cannot become a server, and ends

and hears one line: JSON with "argv", "env" and "cwd". ROOM is a word of blanks: the titles that a process gives itself
find no more room than the words that it was executed with.

Most of the time that a server takes to start goes into imports, and a process that has them can fork its engine too
(`VLLM_WORKER_MULTIPROC_METHOD`), as long as nothing of CUDA was begun and no other thread is there.
"""

from __future__ import annotations

import os
import sys

# Python put this file's folder first, and a console script's own one is there when it is executed.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - before any other import
sys.path[:] = [os.path.dirname(sys.argv[1]) if folder == _HERE else folder for folder in sys.path]  # noqa: PTH120

import contextlib  # noqa: E402
import ctypes  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import pkgutil  # noqa: E402
import runpy  # noqa: E402
import socket  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NoReturn  # noqa: E402

NICENESS = 10
OOM_SCORE = Path("/proc/self/oom_score_adj")
NVML = "libnvidia-ml.so.1"
NVML_USES = 64  # by what is imported, at most; one more nvmlShutdown than there were uses is no error
# CUDA and ROCm open these; NVML opens others, and holds no memory of a GPU.
DEVICES = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/")
PR_SET_NAME = 15
COMMANDS = "vllm.entrypoints.cli"  # what the console script imports, before it knows what is wanted of it
# What serving imports later; a vLLM that lacks one of them does without.
ENGINE = ("vllm.v1.engine.async_llm", "vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor")


def main() -> None:
    """Import, wait, and go on as the order says."""
    executable = sys.argv[1]
    connection = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    score = _be_the_first_to_go()
    reason = _import()
    _leave_nvml()
    if reason := reason or _touched():
        _give_up(connection, reason)
    stamps = _stamps()
    connection.sendall(b"warm\n")
    request = _receive_request(connection)
    for path, stamp in stamps.items():
        if _stamp(path) != stamp:
            _give_up(connection, f"{path} is not what was imported any more")
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text(score)
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    _be_called([sys.executable, *sys.argv], Path(executable).name)
    os.environ.clear()
    os.environ.update(request["env"])
    connection.sendall(b"taken\n")
    connection.close()
    runpy.run_path(executable, run_name="__main__")


def _give_up(connection: socket.socket, reason: str) -> NoReturn:
    connection.sendall(f"unfit {' '.join(reason.split())}\n".encode())
    sys.exit(3)


def _be_the_first_to_go() -> str:
    """Have this process end before any other when memory runs out (proc(5)); what its score was before."""
    score = "0"
    with contextlib.suppress(OSError):
        score = OOM_SCORE.read_text()
        OOM_SCORE.write_text("1000")
    return score


def _import() -> str:
    """Import what is needed; what was in the way, or ""."""
    wrong: list[str] = []

    def work() -> None:
        # Of this thread alone: the niceness of a process cannot be taken back (setpriority(2)).
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            commands = importlib.import_module(COMMANDS)
            found = pkgutil.iter_modules(commands.__path__, f"{COMMANDS}.")
            for name in (*(module.name for module in found), *ENGINE):
                with contextlib.suppress(
                    ImportError
                ):  # a command that lacks something may still not be the wanted one
                    importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - whatever an import does, it is a cold start then
            wrong.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=work, name="import")
    thread.start()
    thread.join()
    return "".join(wrong)


def _leave_nvml() -> None:
    """Have NVML close the device files that it has open.

    torch counts the GPUs with it while vLLM is imported (`torch/cuda/__init__.py`, `_raw_device_count_nvml`), and never
    shuts it down. Whoever needs it later begins it again, as torch and vLLM do at each use.
    """
    try:
        library = ctypes.CDLL(NVML, mode=os.RTLD_NOLOAD)
    except OSError:  # nobody loaded it
        return
    for _ in range(NVML_USES):  # it counts who began it
        if library.nvmlShutdown() != 0:
            return


def _touched() -> str:
    """Why a server must not begin in this process; "" where nothing is in the way.

    OpenBLAS has threads of its own, and ends them before a fork (pthread_atfork(3)): they do not count.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "an import has initialised CUDA"
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(entry.path)  # noqa: PTH115
            if any(device in path for device in DEVICES):
                return f"an import has opened {path}"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return f"an import has left the thread {others[0]}" if others else ""


def _stamps() -> dict[str, int]:
    """Each file that was imported, with its time of change in ns: vLLM may be updated meanwhile."""
    paths = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {path: _stamp(path) for path in paths if isinstance(path, str)}


def _stamp(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - five thousand of them
    except OSError:
        return 0


def _receive_request(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        more = connection.recv(65536)
        if not more:  # the guard is gone
            sys.exit(0)
        data += more
    request: dict[str, Any] = json.loads(data)
    return request


def _be_called(words: list[str], name: str) -> None:
    """Look as the script that is executed.

    It comes before the environment is replaced: setproctitle, which vLLM uses where it is installed, finds the words
    of a process by way of that.
    """
    with contextlib.suppress(ImportError):
        setproctitle = importlib.import_module("setproctitle")
        setproctitle.setproctitle(" ".join(words))
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


if __name__ == "__main__":
    main()
