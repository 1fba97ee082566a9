"""The program of a standby: it imports what ``vllm serve`` imports, waits for a request, and then is the leader.

It runs as ``PYTHON standby_child.py EXECUTABLE BLANKS`` in vLLM's own Python, where vllm_magic is not installed. Its standard
input is one end of a socketpair, to which it writes lines::

    warm            everything is imported, and CUDA is not initialised
    taken           the request has arrived; now vLLM's console script runs, as if it had been executed
    unfit REASON    the process cannot become a server, and ends

It reads one line: JSON with "argv", "env" and "cwd". BLANKS is an argument of blanks, because the title of a process cannot be
longer than its arguments.

A start spends most of its time on imports. The engine can be forked from a process that has them
(`VLLM_WORKER_MULTIPROC_METHOD`), if CUDA is not initialised and the process has no other thread.
"""

from __future__ import annotations

import os
import sys

# Python has put this file's folder first on the path. A console script has its own folder there.
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
NVML_USES = 64  # the most calls of nvmlInit by imported modules; a call of nvmlShutdown too many does no harm
# The device files that CUDA and ROCm open. NVML opens other files, and holds no memory of a GPU.
DEVICES = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/")
PR_SET_NAME = 15
CLI_PACKAGE = "vllm.entrypoints.cli"  # the package of vLLM's sub-commands, which the console script imports
# Modules that serving imports later; a vLLM may lack some of them.
ENGINE = ("vllm.v1.engine.async_llm", "vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor")


def main() -> None:
    """Import vLLM, wait for the request, and become the server."""
    executable = sys.argv[1]
    connection = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a descriptor is wanted
        os.dup2(nothing.fileno(), 0)
    score = _raise_oom_score()
    reason = _import()
    _shut_nvml_down()
    if reason := reason or _find_obstacle():
        _report_unfit(connection, reason)
    stamps = _stamps()
    connection.sendall(b"warm\n")
    request = _receive_request(connection)
    for path, stamp in stamps.items():
        if _stamp(path) != stamp:
            _report_unfit(connection, f"{path} is not what was imported any more")
    with contextlib.suppress(OSError):
        OOM_SCORE.write_text(score)
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    _set_title([sys.executable, *sys.argv], Path(executable).name)
    os.environ.clear()
    os.environ.update(request["env"])
    connection.sendall(b"taken\n")
    connection.close()
    runpy.run_path(executable, run_name="__main__")


def _report_unfit(connection: socket.socket, reason: str) -> NoReturn:
    connection.sendall(f"unfit {' '.join(reason.split())}\n".encode())
    sys.exit(3)


def _raise_oom_score() -> str:
    """Make Linux kill this process first if memory runs out (proc(5)); return the previous score."""
    score = "0"
    with contextlib.suppress(OSError):
        score = OOM_SCORE.read_text()
        OOM_SCORE.write_text("1000")
    return score


def _import() -> str:
    """Import the modules; return the error of an import, or ""."""
    errors: list[str] = []

    def work() -> None:
        # Only for this thread: a process cannot lower its niceness again (setpriority(2)).
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            commands = importlib.import_module(CLI_PACKAGE)
            modules = pkgutil.iter_modules(commands.__path__, f"{CLI_PACKAGE}.")
            for name in (*(module.name for module in modules), *ENGINE):
                with contextlib.suppress(ImportError):  # serving may not need this module
                    importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 - after any error the server starts without a standby
            errors.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=work, name="import")
    thread.start()
    thread.join()
    return "".join(errors)


def _shut_nvml_down() -> None:
    """Shut NVML down, so that it closes its device files.

    While vLLM is imported, torch counts the GPUs with NVML (`torch/cuda/__init__.py`, `_raw_device_count_nvml`), and never
    shuts NVML down. torch and vLLM initialise NVML again at each use.
    """
    try:
        library = ctypes.CDLL(NVML, mode=os.RTLD_NOLOAD)
    except OSError:  # NVML was not loaded
        return
    for _ in range(NVML_USES):  # NVML counts the calls of nvmlInit
        if library.nvmlShutdown() != 0:
            return


def _find_obstacle() -> str:
    """Return why this process cannot become a server; "" if it can.

    The threads of OpenBLAS do not count: it ends them before a fork (pthread_atfork(3)).
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
    """Return the time of the last change, in ns, of each imported file: vLLM may be updated meanwhile."""
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


def _set_title(words: list[str], name: str) -> None:
    """Set the title and the name of this process to those of the executed script.

    This comes before the environment is replaced: setproctitle, which vLLM uses if it is installed, finds the arguments of
    the process through the environment.
    """
    with contextlib.suppress(ImportError):
        setproctitle = importlib.import_module("setproctitle")
        setproctitle.setproctitle(" ".join(words))
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


if __name__ == "__main__":
    main()
