"""The probe process: it calls NVML, which may hang or crash, so that no other process has to.

    python -I -S nvml_child.py PATH_OF_PYNVML PARENT_PIDFD

Each empty line on stdin is a request. Each line on stdout is its reply, a JSON object::

    {"driver": "580.00" | null, "cuda": [major, minor] | null, "problem": "..." | null,
     "gpus": [{"index", "uuid", "name", "total", "used", "free",
               "processes": [[pid, used, computes], ...] | null, "capability": [major, minor] | null}, ...]}

A GPU that is divided (MIG) is reported as its parts, with the index "GPU:PART".

The process ends with its parent, also while a call of NVML hangs. The end of stdin is not enough for that: a child that
the parent forked may hold the other end.
"""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import resource
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

RETRIES = 3
_PLAIN_WORDS = {
    "NVMLError_LibraryNotFound": "no NVIDIA driver found",
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded",
    "NVMLError_NoPermission": "the NVIDIA driver refuses access",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was updated and works again after a reboot",
}


def main() -> None:
    """Answer requests until stdin ends or the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reply_fd = os.dup(1)
    os.dup2(2, 1)  # text that the C library prints must not get between the replies
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests, int(sys.argv[2])), daemon=True).start()
    nvml = _load(sys.argv[1])
    initialised = False
    with os.fdopen(reply_fd, "w", encoding="utf-8") as replies:
        while requests.get():
            try:
                if not initialised:
                    nvml.nvmlInit()
                    initialised = True
                reply = _read_gpus(nvml)
            except nvml.NVMLError as error:
                initialised = False  # the driver may come, or come back
                problem = _PLAIN_WORDS.get(type(error).__name__, f"the NVIDIA driver says: {error}")
                reply = {"driver": None, "cuda": None, "problem": problem, "gpus": []}
            print(json.dumps(reply), file=replies, flush=True)


def _read_requests(requests: queue.SimpleQueue[bytes], parent: int) -> None:
    """Pass the requests on from stdin; end this process when stdin or the parent ends."""
    events = select.poll()
    events.register(0, select.POLLIN)
    events.register(parent, select.POLLIN)
    while parent not in {fd for fd, _ in events.poll()}:
        data = os.read(0, 4096)
        if not data:
            break
        for _ in range(data.count(b"\n")):
            requests.put(b"\n")
    os._exit(0)


def _load(path: str) -> Any:
    """Import pynvml from the file that the parent uses. No search path is involved, so no other pynvml can be found."""
    spec = importlib.util.spec_from_file_location("pynvml", path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pynvml"] = module
    spec.loader.exec_module(module)
    return module


def _read_gpus(nvml: Any) -> dict[str, Any]:
    gpus = [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _whole_or_parts(nvml, index)]
    return {
        "driver": nvml.nvmlSystemGetDriverVersion(),
        "cuda": _cuda(nvml),
        "gpus": gpus,
        "problem": None if gpus else "the NVIDIA driver shows no GPU",
    }


def _cuda(nvml: Any) -> tuple[int, int] | None:
    """Return the newest CUDA that the driver runs; None if the driver does not say."""
    version = _if_supported(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    return (version // 1000, version % 1000 // 10) if version else None


def _whole_or_parts(nvml: Any, index: int) -> list[dict[str, Any]]:
    """Return the descriptions of a GPU's parts (MIG devices) if it has any; else that of the GPU; [] if it cannot be seen."""
    handle = _if_supported(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return []
    capability = _if_supported(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    parts = [_described(nvml, part, f"{index}:{place}") for place, part in _parts(nvml, handle)]
    found = parts or [_described(nvml, handle, index)]
    return [{**device, "capability": capability} for device in found if device]


def _parts(nvml: Any, handle: Any) -> list[tuple[int, Any]]:
    """Return the handles of a GPU's parts, by their index; [] if the GPU is not divided."""
    function = getattr(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", None)
    if function is None or not _is_divided(nvml, handle):
        return []
    most = _if_supported(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    found = [(place, _if_supported(nvml, function, handle, place)) for place in range(most)]
    return [(place, part) for place, part in found if part is not None]


def _is_divided(nvml: Any, handle: Any) -> bool:
    modes = _if_supported(nvml, nvml.nvmlDeviceGetMigMode, handle)
    return bool(modes) and modes[0] == nvml.NVML_DEVICE_MIG_ENABLE


def _described(nvml: Any, handle: Any, index: int | str) -> dict[str, Any] | None:
    """Return a description of one GPU or part; None if it is lost, or this user may not see it."""
    try:
        gpu = {"index": index, "uuid": nvml.nvmlDeviceGetUUID(handle), "name": nvml.nvmlDeviceGetName(handle)}
    except nvml.NVMLError:
        return None
    memory, processes = _memory(nvml, handle), _processes(nvml, handle)
    for _ in range(RETRIES):
        # Memory and processes are two calls. A process that ends between them must not count in only one of them.
        again = _memory(nvml, handle)
        if again == memory:
            break
        memory, processes = again, _processes(nvml, handle)
    total, used, free = memory
    return {**gpu, "total": total, "used": used, "free": free, "processes": processes}


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None, int | None]:
    """Return total, used and free memory, in bytes.

    Version 2 of the call does not count the driver's own share as used. Version 1 is the fallback.
    """
    function = nvml.nvmlDeviceGetMemoryInfo
    memory = _if_supported(nvml, function, handle, nvml.nvmlMemory_v2) or _if_supported(
        nvml, function, handle
    )
    return (memory.total, memory.used, memory.free) if memory else (None, None, None)


def _processes(nvml: Any, handle: Any) -> list[tuple[int, int | None, bool]] | None:
    """Return the processes that compute or draw; None if the driver does not list computing processes."""
    if _is_divided(nvml, handle):
        return None  # without privileges, NVML lists no process of a divided GPU; a part lists its own
    computing = _listed(nvml, handle, "Compute")
    if computing is None:
        return None
    rows: dict[int, tuple[int, int | None, bool]] = {}
    for computes, listed in (
        (False, _listed(nvml, handle, "Graphics")),
        (True, _listed(nvml, handle, "MPSCompute")),
        (True, computing),
    ):
        for process in listed or ():
            # A process that computes and draws is in two lists, with the same bytes.
            _, known, before = rows.get(process.pid, (0, None, False))
            used = process.usedGpuMemory
            most = known if used is None else max(used, known or 0)
            rows[process.pid] = process.pid, most, computes or before
    return list(rows.values())


def _listed(nvml: Any, handle: Any, kind: str) -> list[Any] | None:
    """Return the processes of this kind, from the newest version of the call that the driver and pynvml have."""
    for version in ("_v3", "_v2"):
        function = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses{version}", None)
        if function and (listed := _if_supported(nvml, function, handle)) is not None:
            return list(listed)
    return None


def _if_supported(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return NVML's answer; None if this driver or this GPU does not support the call."""
    try:
        return function(*arguments)
    except nvml.NVMLError:
        return None


if __name__ == "__main__":
    main()
