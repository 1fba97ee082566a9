"""The data that the views draw: the servers, the chosen server in full, the GPUs. No key is in it; its text is masked.

Times are seconds since the epoch, so that no value changes while nothing happens: the views compute durations themselves.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic import durations
from vllm_magic.jupyter.display import views
from vllm_magic.jupyter.display.progress import stage_text
from vllm_magic.jupyter.panel import server_list
from vllm_magic.provisioning.base import StartKind
from vllm_magic.server.server import ServerState, run_of
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Gpu, Snapshot
    from vllm_magic.jupyter.panel.messages import FormFields
    from vllm_magic.provisioning.standby_pool import StandbyStatus
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server
    from vllm_magic.server.status import ServerStatus

Data = dict[str, Any]


def line(one: ServerStatus) -> Data:
    """Return the entry of a server in the list at the top."""
    return {
        "name": one.name,
        "state": state(one),
        "keep": one.spec.keep is not None,
        "may_go": server_list.may_go(one),
    }


def state(one: ServerStatus) -> str:
    """Return the state of a server as one word, which the views colour."""
    return "asleep" if one.asleep and one.state is ServerState.READY else one.state.value


def server(one: ServerStatus, fields: FormFields) -> Data:
    """Return the chosen server in full, with the form values that would start it again."""
    began = one.times.get(ServerState.STARTING)
    return {
        "name": one.name,
        "model": one.model,
        "state": state(one),
        "url": one.base_url,
        "exposed": one.exposed,
        "terms": terms(one.spec),
        "pid": one.pid,
        "log": str(one.log_path or ""),
        "began": began,
        "ended": max(one.times.values(), default=began) if one.state.over else None,
        "times": [[kind.value, at] for kind, at in one.times.items()],
        "ready_after": one.ready_after,
        "warm": one.start_kind is StartKind.WARM,
        "fields": asdict(fields),
        "stages": [[stage.value, seconds] for stage, seconds in one.stages.items()],
        "error": _error(one),
        "idle_release": one.idle_release,
        "release": release(one.release) if one.release and one.state.over else None,
    }


def spare(one: StandbyStatus) -> str:
    """Return a line about the standby, which has imported vLLM before the next start; "" where there is none."""
    if not one.there:
        return ""
    return f"spare: {gib(one.memory)} of memory" if one.warm else "spare: importing vLLM"


def terms(spec: ServerSpec) -> list[str]:
    """Return the rules by which the server outlives its kernel or ends without a request to stop."""
    return [
        *([f"kept {durations.text(spec.keep)} after the kernel"] if spec.keep else []),
        *([f"released after {durations.text(spec.ttl)} without a request"] if spec.ttl else []),
    ]


def progress(one: ServerStatus) -> Data:
    """Return the progress of a start, which changes with every update."""
    left, late = one.estimate.left, one.estimate.late
    return {
        "name": one.name,
        "stage": stage_text(one.progress, one.estimate),
        "share": round(one.estimate.share, 3),
        "left": None if left is None else round(left),
        "late": late is not None,
    }


def release(one: Release) -> Data:
    """Return the result of a stop."""
    return {
        "text": one.text,
        "verified": one.verified,
        "proof": one.proof.value,
        "note": one.note,
        "ended": [[process.pid, process.name, process.how] for process in one.ended],
        "left": [[process.pid, process.name] for process in one.left],
        "again": bool(one.left) or one.unseen,
        "vram": [[gpu.index, gpu.name, gpu.baseline, gpu.before, gpu.after, gpu.freed] for gpu in one.vram],
    }


def gpus(now: Snapshot | None, owners: Mapping[int, str], chosen: str, claims: Mapping[int, int]) -> Data:
    """Return the GPUs and the holders of their memory.

    Args:
        now: the latest snapshot; None where there is none yet.
        owners: the names of this kernel's servers, by the pids of their processes that the driver lists.
        chosen: the name of the server that is shown.
        claims: the bytes that the start in the form would take on each GPU, by the index of the GPU.
    """
    if now is None or not now.gpus:
        return {"rows": [], "note": now.problem if now and now.problem else ""}
    return {"rows": [_gpu(gpu, owners, chosen, claims.get(gpu.index)) for gpu in now.gpus], "note": ""}


def points(several: Iterable[Server]) -> Data:
    """Return the newest point of each server's curve, by the name of the server."""
    return {one.name: point for one in several if (point := _last_point(one)) is not None}


def curve(one: Server) -> Data:
    """Return the whole curve of a server."""
    whole = run_of(one).curve
    return {
        "name": one.name,
        "points": [_point(sample, whole.gpus) for sample in whole.samples()],
    }


def _last_point(one: Server) -> list[Any] | None:
    whole = run_of(one).curve
    samples = whole.samples()
    return _point(samples[-1], whole.gpus) if samples else None


def _point(sample: Any, chosen: tuple[int, ...]) -> list[Any]:
    """Return time, bytes in use on its GPUs, bytes of its own, requests running and waiting, tokens a second in and out."""
    return [
        round(sample.at, 2),
        _sum(sample.used, chosen),
        _sum(sample.held, chosen),
        sample.running,
        sample.waiting,
        _rounded(sample.prompt_rate),
        _rounded(sample.generation_rate),
    ]


def _sum(memory: tuple[int | None, ...], chosen: tuple[int, ...]) -> int | None:
    known = [memory[index] for index in chosen if index < len(memory)]
    return sum(one for one in known if one is not None) if any(one is not None for one in known) else None


def _rounded(rate: float | None) -> float | None:
    return None if rate is None else round(rate, 1)


def _error(one: ServerStatus) -> Data | None:
    error = one.error
    if error is None:
        return None
    cause, hint = getattr(error, "cause", str(error)), getattr(error, "hint", "")
    return {"cause": cause, "hint": hint, "lines": [detail.strip() for detail in error.details]}


def _gpu(gpu: Gpu, owners: Mapping[int, str], chosen: str, claim: int | None) -> Data:
    mine, others, foreign = 0, 0, 0
    for process in gpu.processes or ():
        used, owner = process.used or 0, owners.get(process.pid)
        if owner is None:
            foreign += used
        elif owner == chosen:
            mine += used
        else:
            others += used
    return {
        "index": gpu.index,
        "name": gpu.name,
        "total": gpu.total,
        "used": gpu.used,
        "free": gpu.free,
        "parts": [mine, others, foreign + _unnamed(gpu)],
        "claim": claim,
    }


def _unnamed(gpu: Gpu) -> int:
    """Return the bytes in use that the driver attributes to no process: all, where it lists no processes."""
    return (gpu.used or 0) if gpu.processes is None else (gpu.unattributed or 0)


def static_html(servers: list[ServerStatus], now: Snapshot | None) -> str:
    """Return what a saved or converted notebook shows in place of the panel."""
    from vllm_magic.view import View

    about = View("The vLLM panel when it was opened. %vllm panel opens a live one.")
    return f"{about._repr_html_()}{views.status(servers, now)._repr_html_()}"


def static_text(servers: list[ServerStatus], now: Snapshot | None) -> str:
    """Return the same as plain text, for use without any front end."""
    return repr(views.status(servers, now))
