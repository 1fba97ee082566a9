"""One death of one host with many servers: ``python -m matrix.stage DEATH METHOD CELLS RESULT``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stand_in
from fake_gpu import fakegpu
from stand_in import leftovers

from vllm_magic.linux import pidfd, prctl, processes, shared_memory
from vllm_magic.linux.processes import Identity

from . import cells, inside, judge, watch
from .deaths import DEATHS
from .ports import free_ports

if TYPE_CHECKING:
    from .deaths import Death
    from .hosts import Host
    from .resources import MemoryGroup
    from .watch import Watched

LIFE = 360  # seconds after which a stage gives up, and clears what it started
BEGIN = 120.0  # seconds for every server to be in its phase
UNDER_WAY = 0.3  # seconds for floods, forks and stops to be under way
TESTS = Path(__file__).parent.parent


class Stage:
    """A host with servers in their phases.

    Attributes:
        host: what will die.
        servers: by the name of their cell.
        home: the state folder.
        folder: for whatever a death needs.
        cleanup: what has to be undone at the end.
        ends: when processes ended.
    """

    def __init__(self, death: Death, method: str, cleanup: contextlib.ExitStack) -> None:
        self.death = death
        self.method = method
        self.cleanup = cleanup
        self.folder = Path(tempfile.mkdtemp(prefix="vm", dir="/tmp"))
        cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.id = self.folder.name
        self.home = self.folder / "h"
        self.home.mkdir(mode=0o700)
        self.trigger = self.folder / "trigger"
        os.mkfifo(self.trigger)
        self.ends = watch.Ends()
        self.servers: dict[str, Watched] = {}
        self.group: MemoryGroup | None = None
        self.gpu = fakegpu.env(fakegpu.build(self.folder / "gpu", gpus=2, total_mib=1 << 22))
        self.host: Host = death.host(self.folder, self._environment())

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        return {
            **os.environ,
            # The servers hold fake VRAM, and the judge asks the fake driver. The host does not: a query of the
            # fake one looks through all of /proc, and with so many servers most of the time would go to that.
            "FAKE_GPU_DIR": self.gpu["FAKE_GPU_DIR"],
            "PYTHONPATH": path,
            "VLLM_MAGIC_HOME": str(self.home),
            leftovers.HOME: str(self.home),
            "VLLM_MAGIC_EXECUTABLE": str(stand_in.install_environment(self.folder / "stand-in")),
            "IPYTHONDIR": str(self.folder / "ipython"),
            inside.PLAN: str(self.folder / "plan"),
        }

    def begin(self, wanted: list[cells.Cell]) -> None:
        """Start the host and its servers, and bring each server into its phase."""
        ports = dict(zip((cell.name for cell in wanted), free_ports(len(wanted)), strict=True))
        self._write_plan(wanted, ports)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.folder / "socket"))
            listening.listen()
            self.host.start(self._code())
            listening.settimeout(BEGIN)
            self.control, _ = listening.accept()
        self.cleanup.callback(self.control.close)
        self.control.settimeout(BEGIN)
        self._lines = self.control.makefile("r", encoding="utf-8")
        begun = self._hear()
        self.host.pid = begun["pid"]
        self.host_identity = _identity(self.host.pid)
        for cell in wanted:
            self.servers[cell.name] = watch.Watched(cell, ports[cell.name], **begun["servers"][cell.name])
        self._await_phases()
        opened = [
            (server, self._open_stream(server))
            for server in self.servers.values()
            for _ in range(server.cell.phase.streams)
        ]
        for server, stream in opened:
            _await_first_token(server, stream)
        self.control.sendall(b"stop\n")
        self._hear()

    def note(self) -> None:
        """Remember everything as it is just before the death, and let floods and forks begin."""
        table = processes.table()
        found = watch.members(self.id)
        for name, server in self.servers.items():
            server.note(found[name], table, guarded=self.method == "vllm_magic")
            self.ends.add(server.processes)
        self.ends.add([self.host_identity])
        os.close(self._pull_trigger())
        time.sleep(UNDER_WAY)

    def act(self) -> float:
        """Let the host die; the time from which on the clock runs."""
        self.death.before(self)
        began = time.monotonic()
        self.control.sendall(b"act\n")
        if self.death.ending:
            time.sleep(UNDER_WAY)
        since = self.death.act(self)
        if self.death.host_survives or since:
            return since or began
        assert self.ends.wait([self.host_identity], self.death.limit), "the host did not die"
        return self.ends.at[self.host_identity]

    def _pull_trigger(self) -> int:
        # Opened for both, it cannot fail where nobody waits; who waits for a writer goes on.
        return os.open(self.trigger, os.O_RDWR | os.O_NONBLOCK)

    def _write_plan(self, wanted: list[cells.Cell], ports: dict[str, int]) -> None:
        plan = {
            "id": self.id,
            "method": self.method,
            "socket": str(self.folder / "socket"),
            "home": str(self.home),
            "executable": str(self.folder / "stand-in" / "bin" / "vllm"),
            "cells": [
                {
                    "name": cell.name,
                    "port": ports[cell.name],
                    "args": cell.args,
                    "options": cell.options(str(self.trigger)),
                    "answers": cell.phase.answers,
                    "stops": cell.phase is cells.Phase.STOPPING,
                    "warm": (number + DEATHS.index(self.death)) % cells.WARM == 0,
                    "waits": cell.phase is cells.Phase.WAITING,
                }
                for number, cell in enumerate(wanted)
            ],
        }
        (self.folder / "plan").write_text(json.dumps(plan))

    def _code(self) -> str:
        load = "%load_ext vllm_magic\n" if self.host.in_ipython and self.method == "vllm_magic" else ""
        begin = "from matrix import inside\n" + (self.death.begin or "inside.begin()")
        return f"{load}{begin}\n{self.death.ending or ('' if self.host.in_ipython else WAIT)}\n"

    def _hear(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError:
            raise TimeoutError(f"the host said nothing for {BEGIN:g} s: {self._output()}") from None
        assert line, "the host ended before its time: " + self._output()
        message: dict[str, Any] = json.loads(line)
        assert "error" not in message, f"{message['error']}\n{self._output()}"
        return message

    def _output(self) -> str:
        path = self.folder / "output"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def _await_phases(self) -> None:
        deadline = time.monotonic() + BEGIN
        late = dict(self.servers)
        while late:
            found = watch.members(self.id)
            for name, server in tuple(late.items()):
                if _is_in_phase(server, found.get(name, [])):
                    del late[name]
            assert time.monotonic() < deadline, f"not in their phase: {sorted(late)} {self._output()}"
            time.sleep(0.1 if late else 0)

    def _open_stream(self, server: Watched) -> socket.socket:
        body = json.dumps({"prompt": "a", "max_tokens": 100_000, "stream": True})
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {server.key}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        stream = socket.create_connection(("127.0.0.1", server.port), timeout=BEGIN)
        self.cleanup.callback(stream.close)
        stream.sendall((head + body).encode())
        return stream

    def clear(self) -> None:
        """End every process that this stage started, whoever is its parent now."""
        me = os.getpid()
        deadline = time.monotonic() + 30
        segments = {segment for server in self.servers.values() for segment in server.segments}
        while time.monotonic() < deadline:
            table = processes.table()
            left = [table[pid] for pid in processes.descendants(table, me) if table[pid].alive]
            for one in left:
                pidfd.send(one.identity, signal.SIGSTOP)
            segments |= shared_memory.mapped_by(one.identity.pid for one in left)
            for one in left:
                pidfd.send(one.identity, signal.SIGKILL)
            pidfd.wait_for_all({one.identity for one in left}, 5.0)
            if not left:
                break
        shared_memory.unlink_unmapped(segments, before=())


WAIT = "import signal\nwhile True: signal.pause()"


def _is_in_phase(server: Watched, members: list[processes.Process]) -> bool:
    cell = server.cell
    if len(members) < cell.processes:
        return False
    if cell.phase.answers:
        return _answers(server.port)
    return cell.phase is not cells.Phase.IMPORTING or _waits_for_a_signal(members[0].identity.pid)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as probe:
        probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        return b" 200 " in probe.recv(64)
    return False


def _waits_for_a_signal(pid: int) -> bool:
    """Whether the process is where the stand-in hangs, in sigwaitinfo(2)."""
    with contextlib.suppress(OSError):
        return "sigtimedwait" in Path(f"/proc/{pid}/wchan").read_text()
    return False


def _await_first_token(server: Watched, stream: socket.socket) -> None:
    got = b""
    while b"data:" not in got:
        more = stream.recv(4096)
        assert more, f"{server.cell.name} does not answer: {got!r}"
        got += more


def _identity(pid: int) -> Identity:
    process = processes.read(pid)
    assert process is not None
    return process.identity


def play(death: Death, method: str, wanted: list[cells.Cell]) -> list[dict[str, Any]]:
    """Let the host die; the judgement of each cell."""
    with contextlib.ExitStack() as cleanup:
        stage = Stage(death, method, cleanup)
        cleanup.callback(stage.host.close)
        cleanup.callback(stage.clear)
        death.prepare(stage)
        stage.begin(wanted)
        stage.note()
        verdicts = judge.judge(stage, stage.act())
    return [
        {"death": death.name, "method": method, **dataclasses.asdict(verdict), "clean": verdict.clean}
        for verdict in verdicts
    ]


def main() -> None:
    """Play the death that the command line names."""
    name, method, chosen, result = sys.argv[1:]
    prctl.become_subreaper()  # whatever loses its parent is still below us, and can be cleared
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, it would be in every host too
    signal.signal(signal.SIGALRM, _give_up)
    signal.signal(signal.SIGTERM, _give_up)
    signal.alarm(LIFE)
    death = next(death for death in DEATHS if death.name == name)
    wanted = [cell for cell in cells.CHOICES[chosen](DEATHS.index(death)) if death.concerns(cell)]
    Path(result).write_text(json.dumps(play(death, method, wanted)))


def _give_up(*_: object) -> None:
    raise TimeoutError(f"this stage took more than {LIFE} s")


if __name__ == "__main__":
    main()
