"""Sleep: a server keeps its processes and gives nearly all of its VRAM back, and is awake again in seconds.

vLLM's sleep mode (0.32, entrypoints/serve/dev/sleep) answers 200 also where nothing slept, so it is judged by
what the server's processes hold, where the driver says that.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.errors import SleepFailed
from vllm_magic.linux import files
from vllm_magic.view import gib

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from vllm_magic.engine.client.health import Api
    from vllm_magic.gpu.probe import Probe

LIMIT = (
    300.0  # seconds for vLLM to move the weights: they go to the machine's memory, or are read from its disk
)
SETTLE = 10.0  # seconds for the driver to say what vLLM has done
LOOK = 0.2  # seconds between looks at it
RELOAD = 2  # the level at which the weights are thrown away
NOTE = "asleep"  # the file in the server's folder that says its level: for the next kernel, where the server is kept


@dataclass(frozen=True)
class SleepResult:
    """A server that fell asleep, or woke up.

    Attributes:
        server: its name.
        asleep: which of the two.
        seconds: that it took.
        before: bytes of VRAM that its processes held before; None where the driver does not say.
        after: bytes that they hold now; None where the driver does not say.
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
            proved = "vLLM says so, and the driver does not tell"
        elif self.asleep:
            proved = f"{gib(self.before - self.after)} came back, and it keeps {gib(self.after)}"
        else:
            proved = f"it holds {gib(self.after)} again"
        return (
            f"{self.server} {'sleeps' if self.asleep else 'is awake'} after {self.seconds:.1f} s: {proved}."
        )


def note(folder: Path | None, level: int) -> None:
    """Write down the deepest level at which the server may sleep, or whose weights may not be there; 0 for none.

    Without the space for it nothing stays there: who finds a server that sleeps without a note reads its weights again.
    """
    if folder is None:
        return
    path = folder / NOTE
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if level:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(path, "wb", opener=lambda path, _: os.open(path, flags, 0o600)) as file:
                file.write(str(level).encode())


def noted(folder: Path | None) -> int:
    """The level that `note` has written; `RELOAD` where it is not readable."""
    try:
        text = files.read_regular(folder / NOTE, 16) if folder else b"0"
    except FileNotFoundError:
        return 0
    except OSError:
        return RELOAD
    return 1 if text == b"1" else RELOAD if text != b"0" else 0


def sleep(
    name: str, api: Api, probe: Probe, members: Callable[[], Collection[int]], level: int, *, slept: bool
) -> SleepResult:
    """Have a server sleep, and check that its VRAM came back. One that sleeps already is told again, and nothing is checked.

    Args:
        name: of the server.
        api: reaches it.
        probe: looks at the GPUs.
        members: gives the pids of its processes.
        level: 1 moves the weights to the machine's memory, 2 throws them away.
        slept: whether it sleeps already.

    Raises:
        SleepFailed: vLLM would not, or the VRAM did not come back.
    """
    began = time.monotonic()
    before = _held(probe, members())
    _post(name, api, f"/sleep?level={level}")
    if api.is_sleeping() is not True:
        raise SleepFailed(f"{name} was told to sleep, and does not. %vllm logs {name} tells more.")
    after = before if slept else _settled(probe, members, before)
    if not slept and before is not None and after is not None and after > before / 2:
        raise SleepFailed(
            f"{name} says that it sleeps, and holds {gib(after)} of {gib(before)} still. %vllm stop {name} gives it back."
        )
    return SleepResult(name, asleep=True, seconds=time.monotonic() - began, before=before, after=after)


def wake(
    name: str, api: Api, probe: Probe, members: Callable[[], Collection[int]], level: int
) -> SleepResult:
    """Wake a server that sleeps at this level, and read the weights again that were thrown away. Arguments as for `sleep`.

    Raises:
        SleepFailed: vLLM would not; mostly since somebody else has the memory now.
    """
    began = time.monotonic()
    before = _held(probe, members())
    _post(name, api, "/wake_up")
    if level >= RELOAD:
        _post(name, api, "/collective_rpc", {"method": "reload_weights"})
        _post(name, api, "/reset_prefix_cache")
    if api.is_sleeping() is not False:
        raise SleepFailed(f"{name} was told to wake up, and does not. %vllm logs {name} tells more.")
    return SleepResult(
        name, asleep=False, seconds=time.monotonic() - began, before=before, after=_held(probe, members())
    )


def _post(name: str, api: Api, path: str, body: object = None) -> None:
    status = api.post(path, body, LIMIT)
    if status != 200:  # noqa: PLR2004 - HTTP
        said = "did not answer" if status is None else f"answered {status}"
        raise SleepFailed(
            f"{name} {said} to {path.partition('?')[0]}. %vllm logs {name} tells why; %vllm gpu shows who holds what."
        )


def _settled(probe: Probe, members: Callable[[], Collection[int]], before: int | None) -> int | None:
    """What is held once that is less than half of what was, or after `SETTLE` seconds."""
    if before is None:
        return None
    deadline = time.monotonic() + SETTLE
    pause = threading.Event()
    while (held := _held(probe, members())) is not None and held > before / 2:
        if time.monotonic() >= deadline:
            break
        pause.wait(LOOK)
    return held


def _held(probe: Probe, pids: Collection[int]) -> int | None:
    listed = [one for gpu in probe.snapshot().gpus for one in gpu.processes or () if one.pid in pids]
    known = [one.used for one in listed if one.used is not None]
    return sum(known) if known and len(known) == len(listed) else None
