"""The candidates for values: models, files, GPUs, servers, choices."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.commands.declaration import ValueKind
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter import on_disk
from vllm_magic.jupyter.loaded_manager import loaded_manager

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.commands.declaration import CommandOption
    from vllm_magic.engine.flags.flag_table import FlagOption

DEVICE_FOLDER = Path("/dev")
DRIVER_LIMIT = 0.01  # seconds to wait for the driver
SERVER_LIMIT = 0.2  # seconds to wait for a server's list of adapters
MODEL_FLAGS = ("--model", "--tokenizer", "--hf-config-path")  # vLLM's flags for a model or a folder


@dataclass(frozen=True)
class Candidate:
    """A text that completion offers, and a short description of it."""

    text: str
    about: str


def of_kind(kind: ValueKind, typed: str) -> Iterable[Candidate]:
    """Return the candidates of a kind that begin with the typed text; none for the kinds that the caller handles."""
    candidates = {
        ValueKind.SERVER: lambda typed: servers(typed, past=False),
        ValueKind.KNOWN_SERVER: lambda typed: servers(typed, past=True),
        ValueKind.KEPT_SERVER: kept_servers,
        ValueKind.MODEL: models,
        ValueKind.MODEL_OR_SERVER: lambda typed: [*servers(typed, past=True), *models(typed)],
        ValueKind.GPUS: gpus,
        ValueKind.VLLM: vllm_versions,
        ValueKind.FILE: files,
        ValueKind.FOLDER: folders,
    }.get(kind)
    return candidates(typed) if candidates else ()


def of_option(option: CommandOption, typed: str) -> Iterable[Candidate]:
    """Return the values of a command's option that begin with the typed text."""
    if option.choices:
        return _choices(map(str, option.choices), str(option.default), typed)
    return of_kind(option.kind, typed)


def of_vllm(option: FlagOption, typed: str) -> Iterable[Candidate]:
    """Return the values of a flag of vLLM that begin with the typed text."""
    if any(string in MODEL_FLAGS for string in option.strings):
        return models(typed)
    if option.is_path and not typed.startswith("~"):  # vLLM does not expand "~"
        return files(typed)
    return _choices(option.choices or (option.default,), option.default, typed)


def _choices(values: Iterable[str], default: str, typed: str) -> list[Candidate]:
    return [
        Candidate(value, "default" if value == default else "value")
        for value in values
        if value not in ("", "None") and value.startswith(typed)
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
    return sorted([*cached, *folders], key=lambda candidate: candidate.text.lower())


def files(typed: str) -> list[Candidate]:
    """Return the files and folders that begin with the typed text."""
    return [Candidate(path, "path") for path in sorted(on_disk.files(typed))]


def folders(typed: str) -> list[Candidate]:
    """Return the folders that begin with the typed text."""
    return [Candidate(path, "folder") for path in sorted(on_disk.files(typed)) if path.endswith("/")]


def adapters(server: str | None, typed: str) -> list[Candidate]:
    """Return the LoRA adapters of a server of this kernel; none if the server does not answer within `SERVER_LIMIT`.

    Args:
        server: the name of the server; None for the only one.
        typed: the typed text.
    """
    manager = loaded_manager()
    if manager is None:
        return []
    try:
        loaded = manager.get(server).loras(timeout=SERVER_LIMIT)
    except VllmMagicError:  # there is no such server, or it does not answer
        return []
    return [Candidate(name, "adapter") for name in sorted(loaded) if name.startswith(typed)]


def servers(typed: str, *, past: bool) -> list[Candidate]:
    """Return the servers of this kernel with their states; ``past`` adds the servers that have ended."""
    manager = loaded_manager()
    if manager is None:
        return []
    known = {**(manager.past() if past else {}), **manager.servers()}
    status = {name: server.status for name, server in known.items() if name.startswith(typed)}
    return [Candidate(name, now.idle_release or now.state.value) for name, now in status.items()]


def kept_servers(typed: str) -> list[Candidate]:
    """Return the servers that can be attached, with their models."""
    from vllm_magic import ledger
    from vllm_magic.ledger import Condition

    records = [entry.record for entry in ledger.entries() if entry.condition is Condition.KEPT]
    models = {record.name: record.model for record in records if record}
    return [Candidate(name, model) for name, model in models.items() if name.startswith(typed)]


def vllm_versions(typed: str) -> list[Candidate]:
    """Return the versions of vLLM that are installed in environments of their own, the newest first."""
    from vllm_magic.engine import environments

    found = {
        one.version: f"{one.package}, {one.backend}, Python {one.python}" for one in environments.installed()
    }
    return [Candidate(version, about) for version, about in found.items() if version.startswith(typed)]


def gpus(typed: str) -> list[Candidate]:
    """Return the GPUs by index. Indices before the last typed comma are not offered again."""
    before, comma, beginning = typed.rpartition(",")
    typed_before = before.split(",")
    candidates = [
        Candidate(f"{before}{comma}{index}", name)
        for index, name in _gpu_names().items()
        if index.startswith(beginning) and index not in typed_before
    ]
    if not comma and "auto".startswith(beginning):
        candidates.append(Candidate("auto", "those with the most free memory"))
    return candidates


def _gpu_names() -> dict[str, str]:
    """Return the name of each GPU by its index: from the driver if it answers at once, else from the device files."""
    manager = loaded_manager()
    gpus = manager.probe.snapshot(timeout=DRIVER_LIMIT, may_start=False).gpus if manager else ()
    if gpus:
        return {str(gpu.index): gpu.name for gpu in gpus}
    with suppress(OSError):
        count = sum(bool(re.fullmatch(r"nvidia\d+", device.name)) for device in DEVICE_FOLDER.iterdir())
        return {str(index): "GPU" for index in range(count)}
    return {}
