"""What one kernel leaves for the next: in the record what a release needs, in the guards' memory what an owner needs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.guard import validation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def pack_gpus(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The GPUs of a snapshot as JSON."""
    return [dataclasses.asdict(gpu) for gpu in snapshot.gpus]


def unpack_gpus(packed: Sequence[Mapping[str, Any]]) -> Snapshot:
    """The snapshot that `pack_gpus` made; without GPUs where it makes no sense."""
    try:
        gpus = tuple(_gpu(fields) for fields in packed)
    except (TypeError, KeyError):
        return Snapshot(0.0, (), None, "the record does not tell how the GPUs were before the start")
    return Snapshot(0.0, gpus, None, None if gpus else "no GPU was seen before the start")


def pack_owner(spec: ServerSpec, command: Command) -> dict[str, Any]:
    """Spec and command as JSON: the key is in it, so it goes to no disk."""
    return {
        "spec": pack_spec(spec),
        "cwd": spec.cwd,
        "command": dataclasses.asdict(command) | {"argv": list(command.argv)},
    }


def pack_spec(spec: ServerSpec) -> dict[str, Any]:
    """What `ServerSpec` compares, as JSON."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.compare}
    lists = {
        "args": list(spec.args),
        "in_file": list(spec.in_file or ()),
        "env": [list(pair) for pair in spec.env],
    }
    return fields | lists


def unpack_owner(packed: Mapping[str, Any]) -> tuple[ServerSpec, Command]:
    """The spec and the command that `pack_owner` packed."""
    spec, command = packed["spec"], packed["command"]
    env = tuple((name, value) for name, value in spec["env"])
    args, in_file = tuple(spec["args"]), tuple(spec["in_file"])
    return (
        ServerSpec(**{**spec, "args": args, "in_file": in_file, "env": env, "cwd": packed["cwd"]}),
        Command(**{**command, "argv": tuple(command["argv"]), "endpoint": Endpoint(**command["endpoint"])}),
    )


def _gpu(fields: Mapping[str, Any]) -> Gpu:
    listed = fields["processes"]
    processes = None if listed is None else tuple(ComputeProcess(**process) for process in listed)
    gpu = Gpu(**{**fields, "processes": processes})
    if not _makes_sense(gpu):
        raise TypeError("not the fields of a GPU")
    return gpu


def _makes_sense(gpu: Gpu) -> bool:
    listed = gpu.processes or ()
    known = (gpu.index, *(process.pid for process in listed))
    bytes_ = (gpu.total, gpu.used, gpu.free, *(process.used for process in listed))
    return (
        validation.texts([gpu.uuid, gpu.name])
        and all(isinstance(process.computes, bool) for process in listed)
        and all(map(validation.identifier, known))
        and all(one is None or validation.identifier(one) for one in bytes_)
    )
