"""The name of a server in place of a model, as in ``%vllm switch small``: the server with its own options is meant."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.commands.front_end import NOTEBOOK
from vllm_magic.errors import InvalidOption, ServerNotFound
from vllm_magic.masking import mask_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.guard.record import Record
    from vllm_magic.jupyter.commands.start_arguments import StartArguments
    from vllm_magic.manager.manager import Manager

# The options that are no part of a server's spec, and --force, which makes the word a model.
_NOT_OF_SPEC = ("--force", "--no-wait", "--no-return", "--timeout")


def find(
    manager: Manager, arguments: StartArguments, command: str, *, or_model: bool = True
) -> ServerSpec | None:
    """Return the spec of the server that is named in place of a model; None if the word is a model, or is missing.

    A word is a model if a folder has this name, if it is the model of the server too, or with --force.

    Args:
        manager: the manager of the servers.
        arguments: the separated arguments of the line.
        command: the name of the command, for errors.
        or_model: whether the model is meant if a server that is not over has the name of its model; otherwise the server is.

    Raises:
        InvalidOption: the word is the name of a server, and the line has options that would change the server; or the server is
            a kept one.
    """
    word, *flags = arguments.rest or ("",)
    own = [option.partition("=")[0] for option in arguments.own]
    if not word or "--force" in own or os.path.lexists(Path(word)):
        return None
    servers = manager.servers()
    server = servers.get(word) or manager.past().get(word)
    if server is None:
        _refuse_kept(word)
        return None
    changes = [*flags, *(option for option in own if option not in _NOT_OF_SPEC)]
    if server.model == word and (or_model or changes or server.state.over):
        return None
    if changes:
        raise InvalidOption(_with_changes(server.spec, [*arguments.own, *flags], command))
    return server.spec


def _with_changes(spec: ServerSpec, words: Sequence[str], command: str) -> str:
    """Return the error for the name of a server with options that would change the server."""
    line = NOTEBOOK.line(command)
    name = "" if any(word.startswith("--name=") for word in words) else f" --name {spec.name}"
    return (
        f"{spec.name} is the name of a server, which keeps its own options. Write {line} {spec.name} without options, or "
        f"give its model: {line} {spec.model} {' '.join(mask_words(words))}{name}"
    )


def _refuse_kept(word: str) -> None:
    """Refuse the name of a kept server, which runs already, but not in this kernel."""
    from vllm_magic.recovery import kept_servers

    records: list[Record] = []
    with suppress(ServerNotFound):  # the state folder cannot be read, which a start reports
        records += [entry.record for entry in kept_servers.entries() if entry.record]
    if any(record.name == word != record.model for record in records):
        raise InvalidOption(
            f"{word} is no model, but a server that outlived its kernel: %vllm attach {word} takes it over."
        )
