"""What can stand behind an option or a sub-command: values, models, files, GPUs, servers."""

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
DRIVER_LIMIT = 0.01  # seconds for a driver that has answered before
SERVER_LIMIT = 0.2  # seconds for a server to say which adapters it has
MODELS = ("--model", "--tokenizer", "--hf-config-path")  # flags whose value is a model, or a folder like one


@dataclass(frozen=True)
class Candidate:
    """One word, and what it means in a few more."""

    text: str
    about: str


def of_kind(kind: ValueKind, typed: str) -> Iterable[Candidate]:
    """What there is of a kind that begins so."""
    found = {
        ValueKind.SERVER: servers,
        ValueKind.KNOWN_SERVER: known_servers,
        ValueKind.KEPT_SERVER: kept_servers,
        ValueKind.MODEL: models,
        ValueKind.GPUS: gpus,
        ValueKind.FILE: files,
        ValueKind.FOLDER: folders,
    }.get(kind)
    return found(typed) if found else ()  # of other kinds only the caller can tell


def of_option(option: CommandOption, typed: str) -> Iterable[Candidate]:
    """The values of an option of a command that begin so."""
    if option.choices:
        return _told(map(str, option.choices), str(option.default), typed)
    return of_kind(option.kind, typed)


def of_vllm(option: FlagOption, typed: str) -> Iterable[Candidate]:
    """The values of a flag of vLLM that begin so."""
    if any(string in MODELS for string in option.strings):
        return models(typed)
    if option.is_path and not typed.startswith("~"):  # which vLLM takes as it stands
        return files(typed)
    return _told(option.choices or (option.default,), option.default, typed)


def _told(usual: Iterable[str], default: str, typed: str) -> list[Candidate]:
    return [
        Candidate(one, "default" if one == default else "value")
        for one in usual
        if one not in ("", "None") and one.startswith(typed)
    ]


def models(typed: str) -> list[Candidate]:
    """The models on this machine whose name, or the last part of it, begins so."""
    beginning = typed.lower()
    cached = [
        Candidate(name, "in the Hugging Face cache")
        for name in on_disk.cached_models()
        if name.lower().startswith(beginning) or name.lower().rpartition("/")[2].startswith(beginning)
    ]
    folders = [Candidate(name, "folder") for name in on_disk.model_folders(typed)]
    return sorted([*cached, *folders], key=lambda one: one.text.lower())


def files(typed: str) -> list[Candidate]:
    """The files and folders that begin so."""
    return [Candidate(one, "path") for one in sorted(on_disk.files(typed))]


def folders(typed: str) -> list[Candidate]:
    """The folders that begin so."""
    return [Candidate(one, "folder") for one in sorted(on_disk.files(typed)) if one.endswith("/")]


def adapters(server: str | None, typed: str) -> list[Candidate]:
    """The LoRA adapters that a server of this kernel has loaded, where it answers at once.

    Args:
        server: its name, None for the only one.
        typed: how they begin.
    """
    if "vllm_magic.manager.manager" not in sys.modules:
        return []
    from vllm_magic.manager.manager import manager

    try:
        loaded = manager.get(server).loras(timeout=SERVER_LIMIT)
    except VllmMagicError:  # no such server, or it is silent
        return []
    return [Candidate(name, "adapter") for name in sorted(loaded) if name.startswith(typed)]


def servers(typed: str) -> list[Candidate]:
    """The servers of this kernel by name."""
    return _beginning(typed, _of_this_kernel(past=False))


def known_servers(typed: str) -> list[Candidate]:
    """The servers of this kernel by name, also those that are over."""
    return _beginning(typed, _of_this_kernel(past=True))


def kept_servers(typed: str) -> list[Candidate]:
    """The servers that can be attached, by name."""
    return _beginning(typed, _kept())


def _beginning(typed: str, found: Mapping[str, str]) -> list[Candidate]:
    return [Candidate(name, about) for name, about in found.items() if name.startswith(typed)]


def _of_this_kernel(*, past: bool) -> dict[str, str]:
    if "vllm_magic.manager.manager" not in sys.modules:  # none was started
        return {}
    from vllm_magic.manager.manager import manager

    everyone = {**(manager.past() if past else {}), **manager.servers()}
    status = {name: server.status for name, server in everyone.items()}
    return {name: one.idle_release or one.state.value for name, one in status.items()}


def _kept() -> dict[str, str]:
    from vllm_magic import ledger
    from vllm_magic.ledger import Condition

    kept = [one.record for one in ledger.entries() if one.condition is Condition.KEPT]
    return {record.name: record.model for record in kept if record}


def gpus(typed: str) -> list[Candidate]:
    """GPUs by index, behind the comma of those that are typed."""
    before, comma, beginning = typed.rpartition(",")
    named = before.split(",")
    found = [
        Candidate(f"{before}{comma}{index}", about)
        for index, about in _devices().items()
        if index not in named
    ]
    chosen = [] if comma else [Candidate("auto", "the freest that are enough")]
    return [one for one in [*found, *chosen] if one.text.rpartition(",")[2].startswith(beginning)]


def _devices() -> dict[str, str]:
    """Each GPU by index: as the driver says, where it answers at once; else by the device files."""
    if "vllm_magic.manager.manager" in sys.modules:
        from vllm_magic.manager.manager import manager

        seen = manager.probe.snapshot(timeout=DRIVER_LIMIT, may_start=False)
        if seen.gpus:
            return {str(gpu.index): gpu.name for gpu in seen.gpus}
    with suppress(OSError):
        count = sum(bool(re.fullmatch(r"nvidia\d+", one.name)) for one in DEVICES.iterdir())
        return {str(index): "GPU" for index in range(count)}
    return {}
