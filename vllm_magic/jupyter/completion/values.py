"""The candidates for values: models, files, GPUs, servers, choices."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import ValueKind
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter import on_disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vllm_magic.commands.declaration import CommandOption
    from vllm_magic.engine.flags.flag_table import FlagOption

DEVICES = Path("/dev")
DRIVER_LIMIT = 0.01  # seconds to wait for the driver, which has answered before
SERVER_LIMIT = 0.2  # seconds to wait for a server's list of adapters
MODELS = ("--model", "--tokenizer", "--hf-config-path")  # flags of vLLM whose value is a model or a folder


@dataclass(frozen=True)
class Candidate:
    """A text that completion offers, and a short description of it."""

    text: str
    about: str


def of_kind(kind: ValueKind, typed: str) -> Iterable[Candidate]:
    """Return the candidates of a kind that begin with the typed text."""
    found = {
        ValueKind.SERVER: servers,
        ValueKind.KNOWN_SERVER: known_servers,
        ValueKind.KEPT_SERVER: kept_servers,
        ValueKind.MODEL: models,
        ValueKind.GPUS: gpus,
        ValueKind.FILE: files,
        ValueKind.FOLDER: folders,
    }.get(kind)
    return found(typed) if found else ()  # the caller knows those of the other kinds


def of_option(option: CommandOption, typed: str) -> Iterable[Candidate]:
    """Return the values of a command's option that begin with the typed text."""
    if option.choices:
        return _choices(map(str, option.choices), str(option.default), typed)
    return of_kind(option.kind, typed)


def of_vllm(option: FlagOption, typed: str) -> Iterable[Candidate]:
    """Return the values of a flag of vLLM that begin with the typed text."""
    if any(string in MODELS for string in option.strings):
        return models(typed)
    if option.is_path and not typed.startswith("~"):  # vLLM does not expand "~"
        return files(typed)
    return _choices(option.choices or (option.default,), option.default, typed)


def _choices(values: Iterable[str], default: str, typed: str) -> list[Candidate]:
    return [
        Candidate(one, "default" if one == default else "value")
        for one in values
        if one not in ("", "None") and one.startswith(typed)
    ]


def models(typed: str) -> list[Candidate]:
    """Return the models on this machine whose name, or its last part, begins with the typed text."""
    beginning = typed.lower()
    cached = [
        Candidate(name, "in the Hugging Face cache")
        for name in on_disk.cached_models()
        if name.lower().startswith(beginning) or name.lower().rpartition("/")[2].startswith(beginning)
    ]
    folders = [Candidate(name, "folder") for name in on_disk.model_folders(typed)]
    return sorted([*cached, *folders], key=lambda one: one.text.lower())


def files(typed: str) -> list[Candidate]:
    """Return the files and folders that begin with the typed text."""
    return [Candidate(one, "path") for one in sorted(on_disk.files(typed))]


def folders(typed: str) -> list[Candidate]:
    """Return the folders that begin with the typed text."""
    return [Candidate(one, "folder") for one in sorted(on_disk.files(typed)) if one.endswith("/")]


def adapters(server: str | None, typed: str) -> list[Candidate]:
    """Return the LoRA adapters of a server of this kernel; none if the server does not answer within `SERVER_LIMIT`.

    Args:
        server: the name of the server; None for the only one.
        typed: the typed text.
    """
    if "vllm_magic.manager.manager" not in sys.modules:
        return []
    from vllm_magic.manager.manager import manager

    try:
        loaded = manager.get(server).loras(timeout=SERVER_LIMIT)
    except VllmMagicError:  # there is no such server, or it does not answer
        return []
    return [Candidate(name, "adapter") for name in sorted(loaded) if name.startswith(typed)]


def servers(typed: str) -> list[Candidate]:
    """Return the running servers of this kernel."""
    return _beginning(typed, _of_this_kernel(past=False))


def known_servers(typed: str) -> list[Candidate]:
    """Return the servers of this kernel, also those that have ended."""
    return _beginning(typed, _of_this_kernel(past=True))


def kept_servers(typed: str) -> list[Candidate]:
    """Return the servers that can be attached."""
    return _beginning(typed, _kept())


def _beginning(typed: str, found: Mapping[str, str]) -> list[Candidate]:
    return [Candidate(name, about) for name, about in found.items() if name.startswith(typed)]


def _of_this_kernel(*, past: bool) -> dict[str, str]:
    if "vllm_magic.manager.manager" not in sys.modules:  # no server was started
        return {}
    from vllm_magic.manager.manager import manager

    every_server = {**(manager.past() if past else {}), **manager.servers()}
    status = {name: server.status for name, server in every_server.items()}
    return {name: one.idle_release or one.state.value for name, one in status.items()}


def _kept() -> dict[str, str]:
    from vllm_magic import ledger
    from vllm_magic.ledger import Condition

    kept = [one.record for one in ledger.entries() if one.condition is Condition.KEPT]
    return {record.name: record.model for record in kept if record}


def gpus(typed: str) -> list[Candidate]:
    """Return the GPUs by index; those before the last typed comma are not offered again."""
    before, comma, beginning = typed.rpartition(",")
    named = before.split(",")
    found = [
        Candidate(f"{before}{comma}{index}", about)
        for index, about in _devices().items()
        if index not in named
    ]
    chosen = [] if comma else [Candidate("auto", "those with the most free memory")]
    return [one for one in [*found, *chosen] if one.text.rpartition(",")[2].startswith(beginning)]


def _devices() -> dict[str, str]:
    """Return the name of each GPU by its index: from the driver if it answers at once, else from the device files."""
    if "vllm_magic.manager.manager" in sys.modules:
        from vllm_magic.manager.manager import manager

        snapshot = manager.probe.snapshot(timeout=DRIVER_LIMIT, may_start=False)
        if snapshot.gpus:
            return {str(gpu.index): gpu.name for gpu in snapshot.gpus}
    with suppress(OSError):
        count = sum(bool(re.fullmatch(r"nvidia\d+", one.name)) for one in DEVICES.iterdir())
        return {str(index): "GPU" for index in range(count)}
    return {}
