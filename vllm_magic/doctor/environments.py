"""The environments of vLLM as a user sees, chooses and removes them: ``%vllm use``, ``%vllm install --list`` and ``--remove``."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vllm_magic.doctor import survey
from vllm_magic.engine import environments, executable
from vllm_magic.engine.environments import BrokenEnvironment, InstalledEnvironment
from vllm_magic.errors import ExecutableNotFound, VllmMagicError
from vllm_magic.guard.record import Phase
from vllm_magic.linux.processes import shown_name
from vllm_magic.notation import written
from vllm_magic.sizes import gib
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.linux.processes import Process

MOST_NAMED = 3  # processes that the error of a removal names
COLUMNS = ("vLLM", "torch", "Python", "size", "proved", "folder", "")


class EnvironmentUse(NamedTuple):
    """The path of the vLLM that a start would run, "" for none, and why it is none of an environment, "" if it is."""

    executable: str
    reason: str


@dataclass(frozen=True)
class EnvironmentList(Viewable):
    """The environments of vLLM on this machine.

    Attributes:
        installed: those that work, the newest version first.
        broken: those that do not.
        chosen: the name of the one that was chosen; "" if none was.
        executable: the path of the vLLM that a start would run; "" if there is none.
        reason: why it is that one, if it is none of these; else "".
    """

    installed: tuple[InstalledEnvironment, ...]
    broken: tuple[BrokenEnvironment, ...]
    chosen: str
    executable: str
    reason: str

    def view(self) -> View:
        """Return the table of the environments, with notes below it."""
        working = [
            (
                one.version if one.package == "vllm" else f"{one.version} ({one.package})",
                one.backend,
                one.python,
                gib(one.size),
                time.strftime("%Y-%m-%d", time.localtime(one.when)),
                one.path,
                self._note(one),
            )
            for one in self.installed
        ]
        others = [
            (one.version or one.name, "", "", "", "", one.path, f"not used: {one.problem}")
            for one in self.broken
        ]
        if not working and not others:
            text = "No vLLM is installed in an environment of its own. %vllm install makes one."
            return View(written(text), lines=self._lines())
        total = f"{gib(sum(one.size for one in self.installed))} in {environments.main_folder()}"
        return View(total, COLUMNS, (*working, *others), self._lines())

    def _note(self, one: InstalledEnvironment) -> str:
        notes = (("used", one.executable == self.executable), ("chosen", one.name == self.chosen))
        return ", ".join(note for note, is_so in notes if is_so)

    def _lines(self) -> tuple[str, ...]:
        return (f"Starts use {self.executable}: {self.reason}.",) if self.reason else ()


@dataclass(frozen=True)
class ChosenEnvironment(Viewable):
    """The environment that was chosen.

    Attributes:
        environment: the environment.
        executable: the path of the vLLM that a start would run.
        reason: why it is another one than that of the environment; "" if it is not.
    """

    environment: InstalledEnvironment
    executable: str
    reason: str

    def view(self) -> View:
        """Return what starts use from now on."""
        one = self.environment
        headline = f"Starts use vLLM {one.version} from now on: {one.path}. Servers that run keep theirs."
        return View(
            headline,
            lines=(f"But here {self.executable} comes first: {self.reason}.",) if self.reason else (),
        )


@dataclass(frozen=True)
class RemovedEnvironment(Viewable):
    """An environment that was removed.

    Attributes:
        environment: the environment.
        executable: the path of the vLLM that a start would run now; "" if there is none.
    """

    environment: InstalledEnvironment | BrokenEnvironment
    executable: str

    def view(self) -> View:
        """Return what was removed, and what starts use now."""
        one = self.environment
        size = f", {gib(one.size)}" if isinstance(one, InstalledEnvironment) else ""
        now = f"Starts use {self.executable} now." if self.executable else "There is no vLLM for a start now."
        return View(f"{one.path} is removed{size}. {now}")


def listed(wanted: str | None = None) -> EnvironmentList:
    """Return the environments.

    Args:
        wanted: the configured path of vLLM; None if none is configured.
    """
    path, reason = used(wanted)
    return EnvironmentList(
        tuple(environments.installed()),
        tuple(environments.broken()),
        environments.chosen_name(),
        path,
        reason,
    )


def use(version: str, wanted: str | None = None) -> ChosenEnvironment:
    """Choose the environment that starts of this user use from now on.

    Args:
        version: the version of vLLM, the name of an environment, or "newest".
        wanted: the configured path of vLLM; None if none is configured.

    Raises:
        InvalidOption: it is not installed.
        VllmMagicError: the choice cannot be stored.
    """
    return ChosenEnvironment(environments.choose(version), *used(wanted))


def remove(version: str, wanted: str | None = None) -> RemovedEnvironment:
    """Remove an environment that no process uses.

    Args:
        version: the version of vLLM, or the name of an environment.
        wanted: the configured path of vLLM; None if none is configured.

    Raises:
        InvalidOption: there is none, or more than one.
        VllmMagicError: processes use it, or it cannot be removed.
    """
    found = environments.removable(version)
    if users := environments.remove(found):
        raise VllmMagicError(f"{found.name} is in use by {_names(users)}. Stop what uses it, then remove it.")
    return RemovedEnvironment(found, used(wanted)[0])


def used(wanted: str | None) -> EnvironmentUse:
    """Return the vLLM that a start would run.

    Args:
        wanted: the configured path of vLLM; None if none is configured.
    """
    path = ""
    with suppress(ExecutableNotFound):
        path = executable.find(wanted)
    if not path or path in {one.executable for one in environments.installed()}:
        return EnvironmentUse(path, "")
    if wanted:
        return EnvironmentUse(path, "the setting executable names it")
    if os.environ.get("VLLM_MAGIC_EXECUTABLE"):
        return EnvironmentUse(path, "$VLLM_MAGIC_EXECUTABLE names it")
    is_beside = bool(sys.executable) and Path(path).parent == Path(sys.executable).parent
    return EnvironmentUse(path, "it is beside this Python" if is_beside else "it is on $PATH")


def _names(users: Sequence[Process]) -> str:
    """Return the servers of this user among these processes, and the titles of the others."""
    servers: dict[int, str] = {}
    with suppress(OSError):  # the state folder may not be readable
        for one in survey.servers():
            name = "a spare (%vllm spare off)" if one.phase == Phase.SPARE else f"the server {one.name}"
            servers.update(dict.fromkeys(one.pids, name))
    names = dict.fromkeys(
        servers.get(user.identity.pid) or f"{shown_name(user)[:60]} (pid {user.identity.pid})"
        for user in users
    )
    more = len(names) - MOST_NAMED
    return ", ".join(list(names)[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
