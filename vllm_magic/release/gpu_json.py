"""GPUs as JSON in the record of a server, for a release by another kernel."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.guard import validation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def pack(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the GPUs of a snapshot as JSON, without the compute capability, which a release does not need."""
    return [
        {name: value for name, value in dataclasses.asdict(gpu).items() if name != "capability"}
        for gpu in snapshot.gpus
    ]


def unpack(packed: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Return the snapshot from the result of `pack`; a snapshot without GPUs if ``packed`` is not valid."""
    try:
        gpus = tuple(_gpu(fields) for fields in packed)
    except (TypeError, KeyError):
        return Snapshot(0.0, (), None, "the record does not tell how the GPUs were before the start")
    return Snapshot(0.0, gpus, None, None if gpus else "no GPU was seen before the start")


def _gpu(fields: Mapping[str, Any]) -> Gpu:
    listed = fields["processes"]
    processes = None if listed is None else tuple(ComputeProcess(**process) for process in listed)
    gpu = Gpu(**{**fields, "processes": processes})
    if not _makes_sense(gpu):
        raise TypeError("not the fields of a GPU")
    return gpu


def _makes_sense(gpu: Gpu) -> bool:
    listed = gpu.processes or ()
    known = tuple(process.pid for process in listed)
    bytes_ = (gpu.total, gpu.used, gpu.free, *(process.used for process in listed))
    return (
        validation.texts([gpu.uuid, gpu.name])
        and (validation.identifier(gpu.index) or isinstance(gpu.index, str))
        and gpu.capability is None
        and all(isinstance(process.computes, bool) for process in listed)
        and all(map(validation.identifier, known))
        and all(size is None or validation.identifier(size) for size in bytes_)
    )
