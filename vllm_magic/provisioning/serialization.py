"""The data that the next kernel needs to take over a server; the guards keep it in their memory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from vllm_magic.engine.command import Command
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


def pack_owner(spec: ServerSpec, command: Command) -> dict[str, Any]:
    """Return the spec and the command as JSON. This contains the key, so it is never written to disk."""
    return {
        "spec": pack_spec(spec),
        "cwd": spec.cwd,
        "command": dataclasses.asdict(command) | {"argv": list(command.argv)},
    }


def pack_spec(spec: ServerSpec) -> dict[str, Any]:
    """Return the fields that `ServerSpec` compares, as JSON."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec) if field.compare}
    lists = {
        "args": list(spec.args),
        "in_file": list(spec.in_file or ()),
        "env": [list(pair) for pair in spec.env],
    }
    return fields | lists


def unpack_owner(packed: Mapping[str, Any]) -> tuple[ServerSpec, Command]:
    """Return the spec and the command that `pack_owner` packed."""
    spec, command = packed["spec"], packed["command"]
    env = tuple((name, value) for name, value in spec["env"])
    args, in_file = tuple(spec["args"]), tuple(spec["in_file"])
    return (
        ServerSpec(**{**spec, "args": args, "in_file": in_file, "env": env, "cwd": packed["cwd"]}),
        Command(**{**command, "argv": tuple(command["argv"]), "endpoint": Endpoint(**command["endpoint"])}),
    )
