"""One spare: a process that has imported vLLM and waits to be told what to serve, with guards of its own.

It has what a server has: a private folder with its record and its mark, a guard pair, a leader in a session of its own.
So whatever becomes of the kernel becomes of it too, and once it is told what to serve it *is* that server.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic import ledger
from vllm_magic.engine import command, executable
from vllm_magic.guard import record
from vllm_magic.guard.client import GuardPair
from vllm_magic.guard.folder import discard
from vllm_magic.guard.protocol import Message, Order, Refused, StandbyReport, Stopping, Why
from vllm_magic.guard.record import Phase, Record
from vllm_magic.linux import machine, memory, processes
from vllm_magic.linux.eventfd import EventFd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.ledger import Folder

PROGRAM = Path(executable.__file__).with_name("standby_child.py")
ROOM = " " * 2000  # characters for the titles of its processes, see there
NAME = "spare"  # in its record, where a server has its own
LONGEST = 30 * 60.0  # seconds for which it waits
NOT_WANTED = "nobody had wanted it for long, or memory was short"
# What vLLM reads when it serves, and not when it is imported (0.32; tests/test_real_spare.py looks).
LATE = (
    "VLLM_API_KEY",
    "HF_TOKEN",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "VLLM_WORKER_MULTIPROC_METHOD",
)


@dataclass(frozen=True)
class StandbySpec:
    """What a spare is made for: a start that differs in any of it must not take that one.

    Attributes:
        executable: the absolute path of vLLM.
        cwd: the working directory, which decides what a relative $PYTHONPATH means.
        env: the environment, but what is read late.
    """

    executable: str
    cwd: str
    env: dict[str, str] = field(repr=False)

    @classmethod
    def of(cls, spec: ServerSpec, path: str, environ: Mapping[str, str]) -> StandbySpec:
        """For servers like this one.

        Args:
            spec: what was asked for.
            path: the absolute path of vLLM.
            environ: the kernel's environment.
        """
        env = command.common_environment(environ, spec)
        # With "" there no GPU is seen, and what is imported goes by that (vllm/triton_utils/importing.py).
        blind = env.get("CUDA_VISIBLE_DEVICES") == ""
        kept = {name: value for name, value in env.items() if name not in LATE}
        return cls(path, spec.cwd, kept | ({"CUDA_VISIBLE_DEVICES": ""} if blind else {}))

    def difference(self, other: StandbySpec) -> str:
        """Why a spare for the other one is none for this one; "" where it is."""
        if self.executable != other.executable:
            return f"the spare is of another vLLM, {other.executable}"
        if self.cwd != other.cwd:
            return f"the spare is of another working directory, {other.cwd}"
        names = sorted(name for name in {*self.env, *other.env} if self.env.get(name) != other.env.get(name))
        return f"${names[0]} is not what it was when the spare was made" if names else ""


class Standby:
    """What it costs is a process of some 500 MB, its guards, and a thread that hears them until it becomes a server.

    What it says of itself may be read by any thread; telling it something belongs to one at a time.

    Args:
        spec: what it is made for.

    Attributes:
        spec: what it is made for.
        folder: its private folder.
        guards: its guard pair.
        since: when it was made, in seconds since the epoch.
        warm: whether everything is imported.
        over: why it can become no server any more; "" while it can.
        gone: whether nothing of it is left.
        memory: bytes that it uses, once it is warm; 0 before that.

    Raises:
        OSError: its folder, its guards or a thread cannot be had.
    """

    def __init__(self, spec: StandbySpec) -> None:
        machine.check_proc()
        self.spec = spec
        self.since = time.time()
        self.warm = False
        self.over = ""
        self.gone = False
        self.memory = 0
        self.folder = ledger.create(NAME)
        self._woken = EventFd()
        order = _order(spec, self.folder, self.since)
        try:
            record.write(order.folder, Record(**order.record))
            self.guards = GuardPair(order)
        except OSError:
            discard(order.folder, order.tmp, order.log)
            raise
        self._attend()

    def become(self, order: Order) -> bool:
        """Tell it what to serve, unless it is `over`; then its guards are the server's, and answer whether it does."""
        self._turn_away()
        if not self.over:
            self.guards.order(order)
            return True
        if not self.gone:
            with contextlib.suppress(OSError):  # its guards have ended it then
                self._attend()
        return False

    def drop(self) -> None:
        """End it, and return at once."""
        self.guards.stop(0.0, 0.0)

    def wait_gone(self, timeout: float) -> bool:
        """Return when nothing of it is left; False after ``timeout`` seconds."""
        self._thread.join(timeout)
        return self.gone

    def let_go(self) -> None:
        """The kernel ends: its guards see to the rest."""
        self._turn_away()
        self.guards.hang_up()

    def _attend(self) -> None:
        """Have a thread hear its guards."""
        try:
            self._woken.open()
            thread = threading.Thread(target=self._hear, name="vllm-magic spare", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:
            self._woken.close()
            self.guards.close()  # which waits until they have ended the spare
            raise OSError(f"nothing is left to attend it: {error}") from error
        self._thread = thread

    def _turn_away(self) -> None:
        """Have nobody hear its guards."""
        self._woken.set()
        self._thread.join()

    def _hear(self) -> None:
        poller = select.poll()
        for one in (self.guards, self._woken):
            poller.register(one, select.POLLIN)
        while not self.gone and self._woken.fileno() not in dict(poller.poll()):
            messages = self.guards.receive()
            for message in messages or ():
                self._note(message)
            if messages is None:
                self.over = self.over or "it has ended"
                self.guards.close()
                self.gone = True
        self._woken.close()

    def _note(self, message: Message) -> None:
        if isinstance(message, StandbyReport):
            self.memory = memory.used_by(message.leader[0]) if message.warm else 0
            self.warm = message.warm
        elif isinstance(message, Refused):
            self.over = f"it was of no use: {message.text}"
        elif isinstance(message, Stopping):
            idle = message.why == Why.IDLE
            self.over = self.over or (NOT_WANTED if idle else "it has ended")


def is_possible(path: str) -> bool:
    """Whether it is known what this executable runs: vLLM's own console script, and by which Python."""
    return executable.interpreter(path) is not None


def _order(spec: StandbySpec, folder: Folder, since: float) -> Order:
    python = executable.interpreter(spec.executable) or ()
    me = processes.read(os.getpid())
    noted = Record(
        id=folder.id,
        name=NAME,
        model="",
        args=[],
        url="",
        port=0,
        gpus=[],
        chosen=False,
        baseline=[],
        phase=Phase.SPARE,
        since=since,
        place=list(machine.here()),
        kernel=list(me.identity) if me else [os.getpid(), 0],
    )
    return Order(
        argv=[*python, str(PROGRAM), spec.executable, ROOM],
        env=spec.env | command.private_environment(folder.id, folder.tmp),
        cwd=spec.cwd,
        tmp=str(folder.tmp),
        folder=str(folder.path),
        log=str(folder.log),
        keep_log=str(folder.kept_log),
        locks=[],
        record=noted._asdict(),
        spare=LONGEST,
    )
