"""The kernel's end of a guard pair: starts it, tells it to stop, hears what it says."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from vllm_magic.guard.protocol import Decoder, Message, Note, Order, Stop, encode

SEND_LIMIT = 10  # seconds for a guard to take what it is sent
EXIT_LIMIT = 10.0  # seconds for a guard that has closed its socket to be gone
PROGRAM = Path(__file__).with_name("run.py")


class GuardPair:
    """One running guard pair. Sending is safe from any thread; receiving belongs to one thread.

    Args:
        order: what the guards are to run.

    Raises:
        OSError: the guard could not be started (no process, no descriptor, no memory).
    """

    def __init__(self, order: Order) -> None:
        self._send_lock = threading.Lock()
        self._decoder = Decoder()
        self._socket, theirs = socket.socketpair()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_LIMIT, 0))
        try:
            kernel = os.pidfd_open(os.getpid())
            try:
                self._process = self._spawn(order, theirs.fileno(), kernel)
            finally:
                os.close(kernel)
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._send(order)

    @staticmethod
    def _spawn(order: Order, control: int, kernel: int) -> subprocess.Popen[bytes]:
        with open(order.log, "ab", opener=_private) as log:  # a guard's own fault is told in the log
            return subprocess.Popen(
                [sys.executable, "-I", "-S", str(PROGRAM), str(control), str(kernel)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Nothing of the user's, but what this Python itself may need to find its libpython.
                env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
                cwd="/",
                pass_fds=(control, kernel),
                start_new_session=True,
            )

    def stop(self, grace: float, patience: float) -> None:
        """Ask for the release; a second time: hurry. Returns at once. Times in seconds."""
        self._send(Stop(grace, patience))

    def note(self) -> None:
        """Have the guard remember the shared memory that the server maps now."""
        self._send(Note())

    @property
    def pid(self) -> int:
        """The outer guard."""
        return self._process.pid

    def fileno(self) -> int:
        """Readable when `receive` has something to say."""
        return self._socket.fileno()

    def receive(self) -> list[Message] | None:
        """What the guards said, waiting for it; None once both are gone."""
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:  # killed with words of ours unread
            data = b""
        return self._decoder.feed(data) if data else None

    def close(self) -> None:
        """Let go of the guards, once `receive` has said that both are gone, and collect the outer one."""
        with self._send_lock:
            self._socket.close()
        try:
            self._process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_LIMIT)

    def kill(self) -> None:
        """Kill the outer guard, which makes the inner one release at once: for guards that do not answer."""
        self._process.kill()

    def _send(self, message: Order | Stop | Note) -> None:
        with self._send_lock:
            try:
                self._socket.sendall(encode(message))
            except BlockingIOError:  # a guard that hangs: half a message would be of no use to it
                self._process.kill()
            except OSError:
                # Both guards are gone, which `receive` says too; whoever waits there deals with it.
                return


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
