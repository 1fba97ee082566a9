"""What can be done with a server while it is ready: asking it, measuring it, putting it to sleep."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import arguments, durations
from vllm_magic.children import benchmark
from vllm_magic.engine import command as commands
from vllm_magic.engine.client import lora, metrics
from vllm_magic.engine.client.connection import SILENCE_LIMIT
from vllm_magic.engine.client.health import Api
from vllm_magic.engine.client.requests import OpenClients, RequestMethods
from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption, SleepFailed, VllmMagicError
from vllm_magic.linux import home
from vllm_magic.server import sleep_mode

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from vllm_magic.engine.client.connection import Connection
    from vllm_magic.engine.client.metrics import Metrics
    from vllm_magic.engine.command import Command
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe
    from vllm_magic.linux.processes import Process
    from vllm_magic.server.sleep_mode import SleepResult


def _folder(path: str) -> str:
    try:
        return str(Path(home.expanded(path)).absolute())
    except OSError as error:  # no home folder, no working directory
        raise InvalidOption(f"{error}.") from None


ADAPTER = "the name of an adapter, as text"


class Service(RequestMethods, ABC):
    """All of it raises `RequestFailed` while the server is not ready.

    Args:
        spec: what was asked for.
        command: how it is reached.
    """

    def __init__(self, spec: ServerSpec, command: Command) -> None:
        super().__init__(self.connection, OpenClients())
        self.spec = spec
        self._command = command
        # One sleep or waking at a time. It is held over requests, so no other lock is taken before it.
        self._sleep_lock = threading.RLock()  # a signal handler of the program may call again
        self._asleep = 0

    @abstractmethod
    def connection(self) -> Connection:
        """Return a connection to it; raises `RequestFailed` while it is not ready."""

    @property
    @abstractmethod
    def _folder(self) -> Path | None:
        """Its private folder; None before there is one."""

    @abstractmethod
    def processes(self) -> list[Process]:
        """Its living processes."""

    def metrics(self, window: float = 1.0) -> Metrics:
        """What it does and has done, by its own counters.

        Args:
            window: seconds over which the tokens a second are counted, which this takes; 0 leaves them out.

        Raises:
            VllmMagicError: it does not tell.
        """
        window = min(arguments.seconds("window", window), durations.MOST)
        api = Api(self._command.endpoint, self._connect().verify)
        began, found = time.monotonic(), api.metrics()
        if found is not None and window > 0:
            threading.Event().wait(window)
            last = api.metrics()
            found = last and metrics.with_rates(found, last, time.monotonic() - began)
        if found is None:
            off = flags.has(self.spec.all_args, "--disable-log-stats")
            why = "--disable-log-stats takes them away" if off else "Try again; %vllm logs may tell more"
            raise VllmMagicError(f"{self.spec.name} tells no metrics. {why}.")
        return found

    def bench(self, *args: str, report: Callable[[str, float], None] | None = None) -> list[str]:
        """The lines of the table that ``vllm bench serve`` prints; see `life.benchmark.run`.

        Raises:
            VllmMagicError: the benchmark fails.
        """
        words = arguments.words(args)
        return benchmark.run(self.spec, self._command, words, self._connect().verify, report)

    def load_lora(self, name: str, path: str | os.PathLike[str]) -> None:
        """Load a LoRA adapter; ``server.chat(..., model=name)`` asks it.

        Args:
            name: what to call it.
            path: its folder.
        """
        name, path = arguments.text("name", name, ADAPTER), arguments.path("path", path)
        lora.load(self._connect(), name, _folder(path))

    def unload_lora(self, name: str) -> None:
        """Unload a LoRA adapter."""
        name = arguments.text("name", name, ADAPTER)
        lora.unload(self._connect(), name)

    def loras(self, timeout: float | None = SILENCE_LIMIT) -> list[str]:
        """The LoRA adapters that are loaded; ``timeout`` is for the whole answer, in seconds."""
        limit = arguments.limit("timeout", timeout)
        return lora.names(self._connect(), limit)

    @property
    def can_sleep(self) -> bool:
        """Whether it was started in vLLM's sleep mode."""
        return flags.has(self.spec.all_args, commands.SLEEP)

    @property
    def asleep(self) -> int:
        """The level at which it sleeps, by the last look; 0 while it is awake.

        After a sleep or a waking that was broken off it is the level of that until somebody has looked, and stays 2 until
        the weights that may be thrown away are there again.
        """
        return self._asleep

    def look_whether_asleep(self) -> bool:
        """Ask it whether it sleeps, and have `asleep` say so. Return that; where it does not answer, what is known."""
        if not self.can_sleep:
            return False
        with self._sleep_lock:
            said = self._look(Api(self._command.endpoint))
        return bool(self._asleep) if said is None else said

    def _look(self, api: Api) -> bool | None:
        """What it says; `_sleep_lock` is held. Who sleeps at a level that nobody noted may have no weights any more."""
        said = api.is_sleeping()
        level = max(self._asleep, sleep_mode.noted(self._folder))
        if said is True and not level:
            level = sleep_mode.RELOAD
        if said is False and level < sleep_mode.RELOAD:
            level = 0
        self._asleep = level
        return said

    def sleep(self, probe: Probe, level: int = 1) -> SleepResult:
        """Have it keep its processes and give its VRAM back.

        Args:
            probe: looks at the GPUs.
            level: 1 moves the weights to the machine's memory, 2 throws them away.

        Raises:
            SleepFailed: it has no sleep mode, would not, or the VRAM did not come back.
        """
        if not self.can_sleep:
            name = self.spec.name
            raise SleepFailed(
                f"{name} has no sleep mode: it is started with {commands.SLEEP}, which a CPU does not take. "
                f"%vllm stop {name} gives its memory back."
            )
        name, api = self.spec.name, Api(self._command.endpoint, self._connect().verify)
        with self._sleep_lock:
            slept = self._look(api)
            if slept is None:
                raise SleepFailed(f"{name} does not say whether it sleeps. %vllm logs {name} may tell why.")
            self._note(
                max(self._asleep, level)
            )  # first: an interrupt, and a failure, may come after it has slept
            try:
                return sleep_mode.sleep(name, api, probe, self._pids, level, slept=slept)
            except SleepFailed:
                self._look(api)
                raise

    def wake(self, probe: Probe) -> SleepResult:
        """Wake it up. Arguments and errors as for `sleep`."""
        api = Api(self._command.endpoint, self._connect().verify)
        with self._sleep_lock:
            said = self._look(api)
            level = sleep_mode.RELOAD if said is None and not self._asleep else self._asleep
            done = sleep_mode.wake(self.spec.name, api, probe, self._pids, level)
            self._note(0)
        return done

    def _note(self, level: int) -> None:
        self._asleep = level
        sleep_mode.note(self._folder, level)

    def _pids(self) -> set[int]:
        return {one.identity.pid for one in self.processes()}
