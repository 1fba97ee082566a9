"""The parts of the trait ``view_state``, which the views draw: the servers, the chosen server in full, the GPUs.

They contain no keys. Times are seconds since the epoch, and the views compute durations: so the trait changes only when
something happens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic import durations
from vllm_magic.jupyter.display import views
from vllm_magic.jupyter.panel import server_list
from vllm_magic.provisioning.base import StartKind
from vllm_magic.server.progress_text import left_text, stage_text
from vllm_magic.server.server import ServerState, run_of
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, GpuIndex, Snapshot
    from vllm_magic.jupyter.panel.messages import FormFields
    from vllm_magic.plotting.timeseries import Sample
    from vllm_magic.provisioning.standby_pool import StandbyStatus
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server
    from vllm_magic.server.status import ServerStatus

Data = dict[str, Any]


def list_entry(status: ServerStatus) -> Data:
    """Return the entry of a server in the list at the top."""
    return {
        "name": status.name,
        "state": _state_name(status),
        "keep": status.spec.keep is not None,
        "removable": server_list.is_removable(status),
    }


def server(status: ServerStatus, fields: FormFields) -> Data:
    """Return the chosen server in full, with the form values that would start it again."""
    began = status.times.get(ServerState.STARTING)
    return {
        "name": status.name,
        "model": status.model,
        "state": _state_name(status),
        "url": status.base_url,
        "exposed": status.exposed,
        "terms": _terms(status.spec),
        "pid": status.pid,
        "log": str(status.log_path or ""),
        "began": began,
        "ended": max(status.times.values(), default=began) if status.state.over else None,
        "times": [[state.value, at] for state, at in status.times.items()],
        "ready_after": status.ready_after,
        "warm": status.start_kind is StartKind.WARM,
        "fields": asdict(fields),
        "stages": [[stage.value, seconds] for stage, seconds in status.stages.items()],
        "error": _error(status),
        "idle_release": status.idle_release,
        "release": release(status.release) if status.release and status.state.over else None,
    }


def spare(status: StandbyStatus) -> str:
    """Return a line about the spare, which has imported vLLM for the next start; "" if there is none."""
    if not status.there:
        return ""
    return f"spare: {gib(status.memory)} of memory" if status.warm else "spare: importing vLLM"


def _state_name(status: ServerStatus) -> str:
    """Return the state of a server as one word, which the views show and colour."""
    return "asleep" if status.asleep and status.state is ServerState.READY else status.state.value


def _terms(spec: ServerSpec) -> list[str]:
    """Return how long the server is kept after its kernel, and when it is stopped because it is idle."""
    return [
        *([f"kept {durations.exact_text(spec.keep)} after the kernel"] if spec.keep else []),
        *([f"released after {durations.exact_text(spec.ttl)} without a request"] if spec.ttl else []),
    ]


def progress(status: ServerStatus) -> Data:
    """Return the progress of a start. It changes with every update, so it is not a part of ``view_state``."""
    estimate = status.estimate
    return {
        "name": status.name,
        "stage": stage_text(status.progress, estimate),
        "share": round(estimate.share, 3),
        "left": left_text(estimate),
        "late": estimate.late is not None,
    }


def release(release: Release) -> Data:
    """Return the result of a stop; ``again`` says whether the views offer to try again."""
    return {
        "text": release.text,
        "verified": release.verified,
        "note": release.note,
        "ended": [[process.pid, process.name, process.how] for process in release.ended],
        "left": [[process.pid, process.name] for process in release.left],
        "again": bool(release.left) or release.may_recheck,
        "vram": [
            [gpu.index, gpu.name, gpu.baseline, gpu.before, gpu.after, gpu.freed] for gpu in release.vram
        ],
    }


def gpus(
    snapshot: Snapshot | None, owners: Mapping[int, str], chosen: str, claims: Mapping[GpuIndex, int]
) -> Data:
    """Return the GPUs and the holders of their memory.

    Args:
        snapshot: the latest snapshot; None if there is none yet.
        owners: the names of this kernel's servers, by the pids of their processes that the driver lists.
        chosen: the name of the server that is shown.
        claims: the bytes that the start in the form would take on each GPU, by the index of the GPU.
    """
    if snapshot is None or not snapshot.gpus:
        return {"rows": [], "note": snapshot.problem if snapshot and snapshot.problem else ""}
    return {"rows": [_gpu(gpu, owners, chosen, claims.get(gpu.index)) for gpu in snapshot.gpus], "note": ""}


def points(servers: Iterable[Server]) -> Data:
    """Return the newest point of the curve of each server, by the name of the server."""
    newest = {}
    for server in servers:
        curve = run_of(server).curve
        if samples := curve.samples():
            newest[server.name] = _point(samples[-1], curve.gpus)
    return newest


def curve(server: Server) -> Data:
    """Return the whole curve of a server."""
    curve = run_of(server).curve
    return {"name": server.name, "points": [_point(sample, curve.gpus) for sample in curve.samples()]}


def _point(sample: Sample, gpus: tuple[int, ...]) -> list[Any]:
    """Return a point of a curve.

    Its values are the time, the bytes in use on the GPUs of the server, the bytes that the server holds, the requests that
    run and wait, and the tokens per second in and out.
    """
    return [
        round(sample.at, 2),
        _sum(sample.used, gpus),
        _sum(sample.held, gpus),
        sample.running,
        sample.waiting,
        _rounded(sample.prompt_rate),
        _rounded(sample.generation_rate),
    ]


def _sum(memory: tuple[int | None, ...], gpus: tuple[int, ...]) -> int | None:
    """Return the bytes on these GPUs together; None if they are known for none of them."""
    known = [count for index, count in enumerate(memory) if index in gpus and count is not None]
    return sum(known) if known else None


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _error(status: ServerStatus) -> Data | None:
    error = status.error
    if error is None:
        return None
    cause, hint = getattr(error, "cause", str(error)), getattr(error, "hint", "")
    return {"cause": cause, "hint": hint, "lines": [detail.strip() for detail in error.details]}


def _gpu(gpu: Gpu, owners: Mapping[int, str], chosen: str, claim: int | None) -> Data:
    of_chosen, of_others, of_no_server = 0, 0, _unattributed(gpu)
    for process in gpu.processes or ():
        used, owner = process.used or 0, owners.get(process.pid)
        if owner is None:
            of_no_server += used
        elif owner == chosen:
            of_chosen += used
        else:
            of_others += used
    return {
        "index": gpu.index,
        "name": gpu.name,
        "total": gpu.total,
        "used": gpu.used,
        "parts": [of_chosen, of_others, of_no_server],
        "claim": claim,
    }


def _unattributed(gpu: Gpu) -> int:
    """Return the bytes in use that the driver attributes to no process: all of them if it lists no processes."""
    return (gpu.used or 0) if gpu.processes is None else (gpu.unattributed or 0)


def static_html(servers: list[ServerStatus], snapshot: Snapshot | None) -> str:
    """Return the HTML that a saved or converted notebook shows in place of the panel."""
    from vllm_magic.view import View

    about = View("The vLLM panel when it was opened. %vllm panel opens a live one.")
    return f"{about._repr_html_()}{views.status(servers, snapshot)._repr_html_()}"


def static_text(servers: list[ServerStatus], snapshot: Snapshot | None) -> str:
    """Return the same as plain text, for use without a front end."""
    return repr(views.status(servers, snapshot))
