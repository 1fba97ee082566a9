"""The main program of a server's job, on the job's node. It takes the place of the kernel.

The job starts the server, with guards of its own, and copies the server's log to the job's log. It stops the server when
Ray asks the job to end, or when the lease was not renewed for too long. If this process is killed, the guards release the
server.
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
from vllm_magic.cluster.messages import unpack_request
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import ServerFailed, VllmMagicError
from vllm_magic.linux import files
from vllm_magic.manager.manager import manager
from vllm_magic.on_node.store import Lease, Store
from vllm_magic.provisioning.standby_pool import StandbyMode
from vllm_magic.server.server import ServerState

if TYPE_CHECKING:
    from vllm_magic.cluster.messages import ServeRequest
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server

REQUEST_LIMIT = 30.0  # seconds from the begin of the job for the request of its agent to arrive
POLL_INTERVAL = 0.2  # seconds between checks of the server and its log
LOG_CHUNK = 2**20  # bytes of the log that are copied at once


def serve(job: str) -> int:
    """Serve what the agent requests, until the release.

    Returns:
        The exit code: 0 if Ray asked for the end.
    """
    stop_request = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: stop_request.set())
    store = Store()
    request = _request(store, job, stop_request)
    if request is None:
        _print(
            wire.line(
                wire.REFUSED, cause="The job got no request from its agent", hint="Start the server again"
            )
        )
        return 1
    manager.spares.set_mode(StandbyMode.OFF)
    spec = ServerSpec(
        request.model,
        (*request.args, "--host", request.host),
        job,
        executable=request.executable,
        env=tuple(sorted(request.env.items())),
        gpus=_given_gpus(),
        force=request.force,
    )
    _print(wire.line(wire.BEGUN))  # before anything exists that would have to be released
    try:
        server = manager.start(spec, wait=False).server
    except VllmMagicError as error:
        _report_refusal(error)
        return 1
    _print(wire.line(wire.PLACED, vllm=installed.find(request.executable).version))
    log = LogCopier(server)
    _serve_until_end(server, stop_request, Lease(store, job, request.lease), log)
    return _release(server, stop_request, log)


class StopRequest:
    """Whether Ray has asked the job to end.

    A signal handler sets it. `threading.Event` is not safe for that: its `set` must not run in a signal handler of the
    thread that waits.
    """

    def __init__(self) -> None:
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._set = False

    def set(self) -> None:
        """Note that Ray has asked."""
        self._set = True
        self._signals.put(None)

    def is_set(self) -> bool:
        """Whether Ray has asked."""
        return self._set

    def wait(self, seconds: float) -> None:
        """Wait for this time at most, or until Ray asks."""
        if not self._set:
            with contextlib.suppress(queue.Empty):
                self._signals.get(timeout=seconds)


def _given_gpus() -> str | None:
    """Return the GPUs of this node that Ray has assigned to the job; None if Ray assigned none, or the driver shows none."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given if given and manager.gpus().gpus else None


def _request(store: Store, job: str, stop_request: StopRequest) -> ServeRequest | None:
    deadline = time.monotonic() + REQUEST_LIMIT
    while not stop_request.is_set() and time.monotonic() < deadline:
        data = store.read(wire.request(job))
        if data:
            store.remove(wire.request(job))
            return unpack_request(data)
        stop_request.wait(POLL_INTERVAL)
    return None


def _serve_until_end(server: Server, stop_request: StopRequest, lease: Lease, log: LogCopier) -> None:
    listens = False
    while not stop_request.is_set() and not server.state.over:
        if listens is not (server.state is ServerState.READY):
            # While the server itself does not listen, another user of the node may take its port. Requests hold the key.
            listens = not listens
            _print(wire.line(wire.LISTENS, port=server.port) if listens else wire.line(wire.ENDS))
        if lease.over:
            _print("The kernel has not renewed the lease for too long. The server is being released.")
            break
        log.copy_new()
        stop_request.wait(POLL_INTERVAL)
    if listens:  # the release frees the port long before it is done
        _print(wire.line(wire.ENDS))


def _release(server: Server, stop_request: StopRequest, log: LogCopier) -> int:
    with contextlib.suppress(VllmMagicError):  # the error is in server.error
        server.stop()
    log.end()
    if server.error is not None:
        _report_refusal(server.error)
    if server.release is not None:
        _print(wire.line(wire.RELEASED, release=packed(server.release)))
    return 0 if stop_request.is_set() else 1


class LogCopier:
    """Copies the server's log to the job's output, in whole lines."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._at = 0
        self._rest = b""

    def copy_new(self) -> None:
        """Copy the new lines. The release of the server moves the file, without a change to its content."""
        path = self._server.log_path
        if path is None:
            return
        with contextlib.suppress(OSError), open(path, "rb", opener=files.open_nonblocking) as file:
            file.seek(self._at)
            while data := file.read(LOG_CHUNK):
                self._at += len(data)
                lines, end, self._rest = (self._rest + data).rpartition(b"\n")
                _write(_without_protocol_lines(lines + end))

    def end(self) -> None:
        """Copy the rest, including an unfinished last line."""
        self.copy_new()
        if self._rest:
            _write(_without_protocol_lines(self._rest) + b"\n")
            self._rest = b""


def _report_refusal(error: VllmMagicError) -> None:
    cause, hint = (error.cause, error.hint) if isinstance(error, ServerFailed) else (str(error), "")
    _print(wire.line(wire.REFUSED, cause=cause, hint=hint))


def packed(release: Release) -> dict[str, Any]:
    """Return a release as JSON, for `release.ray_verifier.unpack`."""
    return asdict(release) | {"proof": release.proof.value}


def _without_protocol_lines(log: bytes) -> bytes:
    """Return vLLM's log without lines that look like lines of this protocol: a request could forge such a line."""
    return log.replace(wire.LINE.encode(), b"@ vllm_magic ")


def _print(text: str) -> None:
    _write(text.encode() + b"\n")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
