"""A standby, shown to users as a spare: a process that has imported vLLM, and waits for a launch request.

Like a server, a standby has a private folder with a record, a mark, a guard pair, and a leader in its own session. So it ends
with the kernel as a server does, and after the launch request it is the server.
"""

from __future__ import annotations

import contextlib
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
from vllm_magic.guard.protocol import LaunchRequest, Message, Refused, StandbyReport, Stopping, Why
from vllm_magic.guard.record import Phase, Record
from vllm_magic.linux import machine, memory, processes
from vllm_magic.linux.eventfd import EventFd
from vllm_magic.linux.processes import STOPPED_STATES, Identity
from vllm_magic.release import force_kill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.ledger import Folder

PROGRAM = Path(executable.__file__).with_name("standby_child.py")
BLANKS = " " * 2000  # an argument that makes long process titles possible, see standby_child.py
RECORD_NAME = "spare"  # the name in the record, where a server has its own
STANDBY_LIMIT = 30 * 60.0  # seconds for which a standby waits for a launch request
NOT_WANTED = "no start had used it for long, or memory was short"
# Variables that vLLM reads when it serves, and not when it is imported (0.32; tests/real/test_spare.py checks it).
LATE_VARIABLES = (
    "VLLM_API_KEY",
    "HF_TOKEN",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "VLLM_WORKER_MULTIPROC_METHOD",
)


@dataclass(frozen=True)
class StandbySpec:
    """The conditions under which a standby has imported vLLM. A start under other conditions must not use the standby.

    Attributes:
        executable: the absolute path of vLLM.
        cwd: the working directory, which decides what a relative $PYTHONPATH means.
        env: the environment without the variables that vLLM reads late.
    """

    executable: str
    cwd: str
    env: dict[str, str] = field(repr=False)

    @classmethod
    def of(cls, spec: ServerSpec, path: str, environ: Mapping[str, str]) -> StandbySpec:
        """Return the spec of a standby for this server.

        Args:
            spec: the server.
            path: the absolute path of vLLM.
            environ: the kernel's environment.
        """
        env = command.common_environment(environ, spec, path)
        # With the value "", vLLM sees no GPU, and imports other modules (vllm/triton_utils/importing.py).
        blind = env.get("CUDA_VISIBLE_DEVICES") == ""
        kept = {name: value for name, value in env.items() if name not in LATE_VARIABLES}
        return cls(path, spec.cwd, kept | ({"CUDA_VISIBLE_DEVICES": ""} if blind else {}))

    def difference(self, other: StandbySpec) -> str:
        """Return why a standby that was made for ``other`` cannot be used for this spec; "" if it can."""
        if self.executable != other.executable:
            return f"the spare is of another vLLM, {other.executable}"
        if self.cwd != other.cwd:
            return f"the spare is of another working directory, {other.cwd}"
        names = sorted(name for name in {*self.env, *other.env} if self.env.get(name) != other.env.get(name))
        return f"${names[0]} is not what it was when the spare was made" if names else ""


class Standby:
    """One standby: a process of about 500 MB, its guards, and a thread that receives their messages until it is a server.

    Any thread may read the attributes. Only one thread at a time may call the methods.

    Args:
        spec: the conditions of the imports.

    Attributes:
        spec: the conditions of the imports.
        folder: the private folder.
        guards: the guard pair.
        since: when the standby was started, in seconds since the epoch.
        warm: whether everything is imported.
        over: why the standby cannot become a server any more; "" while it can.
        gone: whether no process or file of the standby is left.
        memory: the bytes that the standby uses once it is warm; 0 before.

    Raises:
        OSError: its folder, guard pair or thread cannot be made.
    """

    def __init__(self, spec: StandbySpec) -> None:
        machine.check_proc()
        self.spec = spec
        self.since = time.time()
        self.warm = False
        self.over = ""
        self.gone = False
        self.memory = 0
        self._woken = EventFd()
        self.folder = ledger.create(RECORD_NAME)
        try:
            request = _launch_request(spec, self.folder, self.since)
            ledger.write_record(self.folder.path, Record(**request.record))
            self.guards = GuardPair(request)
        except BaseException:
            self.folder.discard()
            raise
        self._start_listening()

    def become(self, request: LaunchRequest) -> bool:
        """Send the launch request, unless the standby is `over`; return whether it was sent.

        The caller receives the guards' answer, and the guards belong to the server from then on.
        """
        self._stop_listening()
        if not self.over:
            self.guards.launch(request)
            return True
        if not self.gone:
            with contextlib.suppress(OSError):  # its guards have ended it then
                self._start_listening()
        return False

    def drop(self) -> None:
        """Request the end of the standby from the guards, and return at once."""
        self.guards.stop(0.0, 0.0)

    def wait_gone(self, timeout: float) -> bool:
        """Wait until no process or file of the standby is left, and return True; return False after ``timeout`` seconds."""
        self._thread.join(timeout)
        return self.gone

    def is_stopped(self) -> bool:
        """Whether the standby or one of its guards is stopped by a signal or a debugger."""
        noted = self._record()
        named = (noted.outer, noted.inner, noted.leader) if noted else ()
        living = (processes.living(Identity(*pair)) for pair in named if pair)
        return any(process.state in STOPPED_STATES for process in living if process)

    def kill_guards(self) -> bool:
        """Kill guards that hang, and return whether they are gone. Their standby may live."""
        noted = self._record()
        guards = [Identity(*pair) for pair in (noted.outer, noted.inner) if pair] if noted else []
        gone = force_kill.kill_guards(guards)
        self.guards.kill()  # the record may lack this guard
        return gone

    def end(self, timeout: float) -> bool:
        """Wait until no process or file of a dropped standby is left. After ``timeout`` seconds, kill its guards and itself.

        Returns:
            Whether no process or file of it is left.
        """
        if self.wait_gone(timeout):
            return True
        if not self.kill_guards() or force_kill.kill_server(self.folder, None).left:
            return False
        self.folder.clear()
        return self.wait_gone(force_kill.EXIT_LIMIT)

    def hang_up(self) -> None:
        """Disconnect from the guards, which then end the standby. Called when the kernel ends."""
        self._stop_listening()
        self.guards.disconnect()

    def _record(self) -> Record | None:
        """Return the record that the guards have written; None if it is gone, or cannot be read."""
        try:
            return ledger.read_record(self.folder.path)
        except (OSError, record.BrokenRecordError):
            return None

    def _start_listening(self) -> None:
        """Start the thread that receives the guards' messages."""
        try:
            self._woken.open()
            thread = threading.Thread(target=self._listen, name="vllm-magic spare", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:
            self._woken.close()
            self.guards.close()  # waits until the guards have ended the standby
            raise OSError(f"no thread can be started for it: {error}") from error
        self._thread = thread

    def _stop_listening(self) -> None:
        """End the thread that receives the guards' messages."""
        self._woken.set()
        self._thread.join()

    def _listen(self) -> None:
        poller = select.poll()
        for source in (self.guards, self._woken):
            poller.register(source, select.POLLIN)
        while not self.gone and self._woken.fileno() not in dict(poller.poll()):
            messages = self.guards.receive()
            for message in messages or ():
                self._handle(message)
            if messages is None:
                self.over = self.over or "it has ended"
                self.guards.close()
                self.gone = True
        self._woken.close()

    def _handle(self, message: Message) -> None:
        if isinstance(message, StandbyReport):
            self.memory = memory.used_by(message.leader[0]) if message.warm else 0
            self.warm = message.warm
        elif isinstance(message, Refused):
            self.over = f"it could not be used: {message.text}"
        elif isinstance(message, Stopping):
            idle = message.why == Why.IDLE
            self.over = self.over or (NOT_WANTED if idle else "it has ended")


def is_possible(path: str) -> bool:
    """Whether a standby is possible: the executable is vLLM's own console script, and names its Python."""
    return executable.interpreter(path) is not None


def _launch_request(spec: StandbySpec, folder: Folder, since: float) -> LaunchRequest:
    python = executable.interpreter(spec.executable) or ()
    standby_record = Record(
        id=folder.id,
        name=RECORD_NAME,
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
        kernel=list(processes.own_identity()),
    )
    return LaunchRequest(
        argv=[*python, str(PROGRAM), spec.executable, BLANKS],
        env=spec.env | command.private_environment(folder.id, folder.tmp),
        cwd=spec.cwd,
        tmp=str(folder.tmp),
        folder=str(folder.path),
        log=str(folder.log),
        keep_log=str(folder.kept_log),
        locks=[],
        record=standby_record._asdict(),
        standby_limit=STANDBY_LIMIT,
    )
