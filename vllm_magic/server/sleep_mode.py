"""vLLM's sleep mode: a server keeps its processes, gives nearly all of its VRAM back, and wakes up in seconds.

vLLM (0.32, entrypoints/serve/dev/sleep) answers 200 even if nothing slept. So success is determined by the memory that the
server's processes hold, if the driver reports it.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine import command as commands
from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption, RequestFailed, SleepFailed
from vllm_magic.linux import files
from vllm_magic.server import members
from vllm_magic.server.gpu_turns import TURNS, GpuSet
from vllm_magic.sizes import gib
from vllm_magic.view import View, Viewable

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_magic.engine.client.health import Api
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.lifecycle.lifecycle import Lifecycle
    from vllm_magic.server.connector import Connector

# Seconds for vLLM to move the weights to the machine's memory, or to read them from its disk.
SLEEP_LIMIT = 300.0
SETTLE_LIMIT = 10.0  # seconds for the driver to show the memory that came back
POLL_INTERVAL = 0.2  # seconds between readings of that memory
LEVELS = (1, 2)
RELOAD = 2  # the level at which the weights are thrown away
LEVEL_FILE = "asleep"  # in the server's folder: its level, for the next kernel if the server is kept


@dataclass(frozen=True)
class SleepResult(Viewable):
    """A server that fell asleep, or woke up.

    Attributes:
        server: the name of the server.
        asleep: whether the server sleeps now.
        seconds: the seconds that this took.
        before: the bytes of VRAM that its processes held before; None if the driver does not report them.
        after: the bytes that they hold now; None if the driver does not report them.
    """

    server: str
    asleep: bool
    seconds: float
    before: int | None
    after: int | None

    @property
    def text(self) -> str:
        """What happened, in one line."""
        if self.before is None or self.after is None:
            proved = "by vLLM's answer, since the driver does not report its memory"
        elif self.asleep:
            proved = f"{gib(self.before - self.after)} came back, and it keeps {gib(self.after)}"
        else:
            proved = f"it holds {gib(self.after)} again"
        return (
            f"{self.server} {'sleeps' if self.asleep else 'is awake'} after {self.seconds:.1f} s: {proved}."
        )

    def view(self) -> View:
        """Return what happened."""
        return View(self.text)


class SleepMode:
    """The sleep mode of one server. Safe to use from any thread: servers that may share a GPU wait for each other.

    Args:
        spec: the spec of the server.
        probe: reads the GPUs.
        connector: connects to the server.
        lifecycle: the state of the server, with its folder and leader.
    """

    def __init__(self, spec: ServerSpec, probe: Probe, connector: Connector, lifecycle: Lifecycle) -> None:
        self._spec = spec
        self._probe = probe
        self._connector = connector
        self._lifecycle = lifecycle
        self._gpus = GpuSet.of(spec)
        self._level = 0  # changes only during a turn on the GPUs

    @property
    def available(self) -> bool:
        """Whether the server was started with ``--enable-sleep-mode``."""
        return flags.has(self._spec.all_args, commands.SLEEP)

    @property
    def level(self) -> int:
        """The level at which the server sleeps, as far as is known; 0 while it is awake.

        After an interrupted `sleep` or `wake`, it is the level of that call until the server is asked again. It stays 2 until
        weights that may have been thrown away are loaded again.
        """
        return self._level

    def is_asleep(self) -> bool:
        """Ask the server whether it sleeps, and set `level` by its answer. Without an answer, return whether `level` is set."""
        if not self.available:
            return False
        with TURNS.turn(self._gpus):
            try:
                answer = self._ask(self._connector.api())
            except RequestFailed:  # the server has ended, or another program has its port
                answer = None
        return bool(self._level) if answer is None else answer

    def sleep(self, level: int = 1) -> SleepResult:
        """Put the server to sleep: it keeps its processes and gives its VRAM back. A sleeping server gets the request again.

        Args:
            level: 1 moves the weights to the machine's memory, 2 throws them away.

        Raises:
            InvalidOption: there is no such level.
            SleepFailed: the server has no sleep mode, does not sleep, or the VRAM did not come back.
            RequestFailed: the server is not ready.
        """
        name = self._spec.name
        if type(level) is not int or level not in LEVELS:
            raise InvalidOption(
                f"level={level!r}: 1 moves the weights to the machine's memory, 2 throws them away."
            )
        if not self.available:
            raise SleepFailed(
                f"{name} has no sleep mode: that needs {commands.SLEEP} at its start, and a GPU. "
                f"%vllm stop {name} gives its memory back."
            )
        with TURNS.turn(self._gpus):
            api = self._connector.api()
            slept = self._ask(api)
            if slept is None:
                raise SleepFailed(f"{name} does not say whether it sleeps. %vllm logs {name} may show why.")
            # The level is set before the request, because the server may sleep although the request fails or is interrupted.
            self._set_level(max(self._level, level))
            try:
                return self._sleep(api, level, slept=slept)
            except SleepFailed:
                self._ask(api)
                raise

    def wake(self) -> SleepResult:
        """Wake the server up, and have it load the weights again if they were thrown away.

        Raises:
            SleepFailed: the server does not wake up, mostly because another process has taken the memory.
            RequestFailed: the server is not ready.
        """
        with TURNS.turn(self._gpus):
            api = self._connector.api()
            answer = self._ask(api)
            level = RELOAD if answer is None and not self._level else self._level
            done = self._wake(api, level)
            self._set_level(0)
        return done

    def _ask(self, api: Api) -> bool | None:
        """Return the answer of the server, and set the level by it. The caller has a turn on the GPUs."""
        answer = api.is_sleeping()
        level = max(self._level, self._read_level())
        if answer is True and not level:
            level = RELOAD  # another program has put the server to sleep, at an unknown level
        if answer is False and level < RELOAD:
            level = 0
        self._level = level
        return answer

    def _sleep(self, api: Api, level: int, *, slept: bool) -> SleepResult:
        """Put the server to sleep, and check that its VRAM came back, unless it slept before."""
        name, began = self._spec.name, time.monotonic()
        before = self._held()
        self._post(api, f"/sleep?level={level}")
        if api.is_sleeping() is not True:
            raise SleepFailed(
                f"{name} was asked to sleep, but does not report that it sleeps. %vllm logs {name} shows more."
            )
        after = before if slept else self._held_after_sleep(before)
        if not slept and before is not None and after is not None and after > before / 2:
            raise SleepFailed(
                f"{name} says that it sleeps, and still holds {gib(after)} of {gib(before)}. %vllm stop {name} gives it back."
            )
        return SleepResult(name, asleep=True, seconds=time.monotonic() - began, before=before, after=after)

    def _wake(self, api: Api, level: int) -> SleepResult:
        name, began = self._spec.name, time.monotonic()
        before = self._held()
        self._post(api, "/wake_up")
        if level >= RELOAD:
            self._post(api, "/collective_rpc", {"method": "reload_weights"})
            self._post(api, "/reset_prefix_cache")
        if api.is_sleeping() is not False:
            raise SleepFailed(
                f"{name} was asked to wake up, but does not report that it is awake. %vllm logs {name} shows more."
            )
        seconds = time.monotonic() - began
        return SleepResult(name, asleep=False, seconds=seconds, before=before, after=self._held())

    def _post(self, api: Api, path: str, body: object = None) -> None:
        name, status = self._spec.name, api.post(path, body, SLEEP_LIMIT)
        if status != 200:  # noqa: PLR2004 - HTTP
            answer = "did not answer" if status is None else f"answered {status}"
            raise SleepFailed(
                f"{name} {answer} to {path.partition('?')[0]}. %vllm logs {name} shows why; %vllm gpu shows who holds memory."
            )

    def _held_after_sleep(self, before: int | None) -> int | None:
        """Return the bytes that the server holds, once they are at most half of ``before``, or after `SETTLE_LIMIT` seconds."""
        if before is None:
            return None
        deadline = time.monotonic() + SETTLE_LIMIT
        pause = threading.Event()
        while (held := self._held()) is not None and held > before / 2:
            if time.monotonic() >= deadline:
                break
            pause.wait(POLL_INTERVAL)
        return held

    def _held(self) -> int | None:
        """Return the bytes of VRAM that the server's processes hold; None if the driver does not report them."""
        pids = set(members.pids(self._spec.name, self._lifecycle))
        gpus = self._probe.snapshot().gpus
        listed = [process for gpu in gpus for process in gpu.processes or () if process.pid in pids]
        known = [process.used for process in listed if process.used is not None]
        return sum(known) if known and len(known) == len(listed) else None

    @property
    def _level_file(self) -> Path | None:
        """The file with the highest level at which the server may have slept: after level 2 it needs its weights again."""
        folder = self._lifecycle.now.folder
        return folder.path / LEVEL_FILE if folder else None

    def _set_level(self, level: int) -> None:
        """Set the level, and write it to the file; 0 removes the file.

        If the disk is full, there is no file. The next kernel then makes a sleeping server load its weights again.
        """
        self._level = level
        path = self._level_file
        if path is None:
            return
        with suppress(OSError):
            path.unlink(missing_ok=True)
            if level:
                mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with open(path, "wb", opener=lambda path, _: os.open(path, mode, 0o600)) as file:
                    file.write(str(level).encode())

    def _read_level(self) -> int:
        """Return the level in the file; `RELOAD` if the file cannot be read."""
        try:
            text = files.read_regular(path, 16) if (path := self._level_file) else b"0"
        except FileNotFoundError:
            return 0
        except OSError:
            return RELOAD
        return 1 if text == b"1" else RELOAD if text != b"0" else 0
