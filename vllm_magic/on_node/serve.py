"""What a server's job runs on its node. To the server it is what a kernel is elsewhere.

It starts the server, with guards of its own, copies its log to the job's, and has it released when Ray asks the job to
end, or when nobody has renewed its lease for too long. If this process is killed, the guards release the server.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic.children import installed
from vllm_magic.cluster import wire
from vllm_magic.cluster.messages import unpack
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import ServerFailed, VllmMagicError
from vllm_magic.linux import files
from vllm_magic.manager.manager import manager
from vllm_magic.on_node.store import Lease, Store
from vllm_magic.provisioning.standby_pool import StandbyMode
from vllm_magic.server.server import ServerState

if TYPE_CHECKING:
    from vllm_magic.cluster.messages import Order
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server

ORDER_LIMIT = 30.0  # seconds for the agent to say what is to be served, once the job runs
LOOK = 0.2  # seconds between looks at the log
PIECE = 2**20  # bytes of the log at once


def serve(job: str) -> int:
    """From the order to the release; 0 where the end was asked for."""
    asked = Asked()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    store = Store()
    order = _order(store, job, asked)
    if order is None:
        _say(wire.line(wire.REFUSED, cause="The job was not told what to serve", hint="Start it again"))
        return 1
    manager.spares.set_mode(StandbyMode.OFF)
    spec = ServerSpec(
        order.model,
        (*order.args, "--host", order.host),
        job,
        executable=order.executable,
        env=tuple(sorted(order.env.items())),
        gpus=_given_gpus(),
        force=order.force,
    )
    _say(wire.line(wire.BEGUN))  # before there can be anything to release
    try:
        server = manager.start(spec, wait=False).server
    except VllmMagicError as error:
        _refuse(error)
        return 1
    _say(wire.line(wire.PLACED, vllm=installed.look(order.executable).version))
    log = Copy(server)
    _stay(server, asked, Lease(store, job, order.lease), log)
    return _release(server, asked, log)


class Asked:
    """Whether Ray has asked for the end. An Event is not safe to set in a signal handler of the thread that waits for it."""

    def __init__(self) -> None:
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._set = False

    def set(self) -> None:
        """It has."""
        self._set = True
        self._signals.put(None)

    def is_set(self) -> bool:
        """Whether it has."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Return after so long, or when it has."""
        if not self._set:
            with contextlib.suppress(queue.Empty):
                self._signals.get(timeout=seconds)


def _given_gpus() -> str | None:
    """The GPUs of this node that Ray has given to the job; None where it has not, or the driver shows none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given if given and manager.gpus().gpus else None


def _order(store: Store, job: str, asked: Asked) -> Order | None:
    deadline = time.monotonic() + ORDER_LIMIT
    while not asked.is_set() and time.monotonic() < deadline:
        data = store.read(wire.order(job))
        if data:
            store.remove(wire.order(job))
            return unpack(data)
        asked.wait(LOOK)
    return None


def _stay(server: Server, asked: Asked, lease: Lease, log: Copy) -> None:
    listens = False
    while not asked.is_set() and not server.state.over:
        if listens is not (server.state is ServerState.READY):
            # As long as it does not listen itself, another user of the node may, and what comes there holds the key.
            listens = not listens
            _say(wire.line(wire.LISTENS, port=server.port) if listens else wire.line(wire.ENDS))
        if lease.over:
            _say("The kernel has not been heard of for too long. The server is released.")
            break
        log.go_on()
        asked.wait(LOOK)


def _release(server: Server, asked: Asked, log: Copy) -> int:
    with contextlib.suppress(VllmMagicError):  # it is in server.error
        server.stop()
    log.end()
    if server.error is not None:
        _refuse(server.error)
    if server.release is not None:
        _say(wire.line(wire.RELEASED, release=packed(server.release)))
    return 0 if asked.is_set() else 1


class Copy:
    """Copies the server's log to the job's output, by whole lines."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._at = 0
        self._rest = b""

    def go_on(self) -> None:
        """Copy what is new. The file moves when the server is released, and stays what it is."""
        path = self._server.log_path
        if path is None:
            return
        with contextlib.suppress(OSError), open(path, "rb", opener=files.unblocked) as file:
            file.seek(self._at)
            while data := file.read(PIECE):
                self._at += len(data)
                lines, end, self._rest = (self._rest + data).rpartition(b"\n")
                _write(_not_ours(lines + end))

    def end(self) -> None:
        """Copy all that is left."""
        self.go_on()
        if self._rest:
            _write(_not_ours(self._rest) + b"\n")
            self._rest = b""


def _refuse(error: VllmMagicError) -> None:
    cause, hint = (error.cause, error.hint) if isinstance(error, ServerFailed) else (str(error), "")
    _say(wire.line(wire.REFUSED, cause=cause, hint=hint))


def packed(release: Release) -> dict[str, Any]:
    """A release as JSON; the other way is in `life.far_proof`."""
    return asdict(release) | {"proof": release.proof.value}


def _not_ours(log: bytes) -> bytes:
    """What vLLM has logged, with nothing in it that passes for a word of ours: somebody may want to be believed."""
    return log.replace(wire.LINE.encode(), b"@ vllm_magic ")


def _say(text: str) -> None:
    _write(text.encode() + b"\n")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
