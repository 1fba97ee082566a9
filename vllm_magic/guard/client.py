"""The kernel's side of a guard pair: start or take over the guards, send them requests, receive their messages."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.guard import control_client, record
from vllm_magic.guard.protocol import (
    Attach,
    Attached,
    Decoder,
    LaunchRequest,
    Refused,
    ServerReady,
    Stop,
    encode,
)
from vllm_magic.guard.record import BrokenRecordError
from vllm_magic.linux import disk, forks, pidfd, pidfd_calls, processes, python, shortage
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.guard.protocol import Message

SEND_LIMIT = 10  # seconds for a guard to read a message
INNER_POLL_INTERVAL = 0.1  # seconds between checks of the inner guard, after the outer guard has ended
EXIT_LIMIT = 10.0  # seconds for a guard to end after it has closed its socket
PROGRAM = Path(__file__).with_name("run.py")


class Guards(ABC):
    """A guard pair at the other end of a connection. Any thread may send; only one thread may receive.

    The end of the connection shows that both guards have ended. If another process has a copy of the guards' socket, the
    outer guard's pidfd and the lock that both guards hold show it instead.

    Args:
        connection: the connection to the guards.
        folder: the server's private folder.

    Attributes:
        pid: the pid of the outer guard.
    """

    pid: int

    def __init__(self, connection: socket.socket, folder: str) -> None:
        try:
            self._events = select.epoll()
        except OSError:
            connection.close()
            raise
        self._events.register(connection, select.EPOLLIN)
        forks.keep_out(connection)
        # The main thread takes this lock only while no other thread knows these guards: a signal handler may interrupt the
        # main thread, and wait for a thread that needs the lock.
        self._send_lock = threading.Lock()
        self._waiting: list[Message] = []
        self._decoder = Decoder()
        self._folder = folder
        self._outer_end: int | None = None
        self._socket = connection
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_LIMIT, 0))

    def stop(self, grace: float, patience: float) -> None:
        """Ask for the release, and return at once. A later request can only shorten the grace period. Arguments as in `Stop`."""
        self._send(Stop(grace, patience))

    def launch(self, request: LaunchRequest) -> None:
        """Turn a standby into a server. The guards answer with `Started`, or with `Refused` and their end."""
        self._send(request)

    def report_ready(self) -> None:
        """Tell the guards that the server is ready. They then record the shared memory that it maps."""
        self._send(ServerReady())

    def fileno(self) -> int:
        """The descriptor that becomes readable when `receive` has messages, or the guards have ended."""
        return self._events.fileno()

    def waiting(self) -> list[Message]:
        """Remove and return the messages that were put back."""
        messages, self._waiting = self._waiting, []
        return messages

    def put_back(self, messages: Iterable[Message]) -> None:
        """Put received messages back, for the next call of `waiting`."""
        self._waiting += messages

    def receive(self) -> list[Message] | None:
        """Wait for the next messages of the guards, and return them.

        Returns:
            The messages; empty if only a part of a message has arrived; None if both guards have ended.

        Raises:
            TimeoutError: nothing arrived within the timeout of the socket.
        """
        ready = {fd for fd, _ in self._events.poll(self._socket.gettimeout())}
        if not ready:
            raise TimeoutError
        if self._socket.fileno() not in ready:  # the outer guard has ended, but the connection is open
            pause = INNER_POLL_INTERVAL if self._inner_lives() else 0.0
            if not pidfd.readable([self._socket.fileno()], pause):
                return [] if pause else None
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:  # the guards were killed before they had read all messages
            data = b""
        return self._decoder.feed(data) if data else None

    def _inner_lives(self) -> bool:
        """Whether the inner guard lives, by the lock in the folder, or by the record."""
        try:
            if not disk.may_hang(self._folder):  # the guards take no lock on a disk that may hang
                return record.is_locked(self._folder)
        except OSError as error:  # the guard is clearing the folder, or the file system has no locks
            if error.errno in shortage.SHORT:  # the end of the connection shows the end of the guard
                return True
        with contextlib.suppress(OSError, BrokenRecordError):
            inner = disk.call(self._folder, record.read, self._folder).inner
            return inner is None or processes.is_alive(Identity(*inner))
        return False

    def _watch(self, outer: int | None) -> None:
        """Watch the outer guard by its pidfd, which is closed with the connection.

        Args:
            outer: the pidfd; None if the guard has ended.

        Raises:
            OSError: the guard has ended already.
        """
        if outer is None:
            raise ConnectionResetError(errno.ECONNRESET, "its guard has just ended")
        self._outer_end = outer
        self._events.register(outer, select.EPOLLIN)

    def close(self) -> None:
        """Close the connection after `receive` has reported the end of both guards."""
        self.disconnect()
        self._events.close()

    def disconnect(self) -> None:
        """Close the connection while the guards live. They treat this like the end of the kernel."""
        with self._send_lock:
            if self._outer_end is not None:  # the end of the outer guard does not matter any more
                with contextlib.suppress(OSError, ValueError):
                    self._events.unregister(self._outer_end)
                os.close(self._outer_end)
                self._outer_end = None
            self._socket.close()

    @abstractmethod
    def kill(self) -> None:
        """Kill the outer guard of guards that do not answer. The inner guard then releases the server at once."""

    def _send(self, message: LaunchRequest | Stop | ServerReady | Attach) -> None:
        with self._send_lock:
            try:
                self._socket.sendall(encode(message))
            except BlockingIOError:  # the guard hangs, and the message may be cut
                self.kill()
            except OSError:
                # Both guards have ended. The caller of `receive` handles that.
                return


class GuardPair(Guards):
    """A guard pair that this process starts.

    Args:
        request: the server that the guards start.

    Raises:
        OSError: the guards could not be started (no process, descriptor or memory is free).
    """

    def __init__(self, request: LaunchRequest) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours = forks.above_standard_streams(ours)
            forks.keep_out(theirs)
            super().__init__(ours, request.folder)
            try:
                kernel = pidfd_calls.open_pid(os.getpid())
                try:
                    self._process = self._spawn(request, theirs.fileno(), kernel)
                finally:
                    os.close(kernel)
                self._watch(pidfd_calls.open_pid(self._process.pid))
            except BaseException:
                super().close()
                raise
        self.pid = self._process.pid
        self._send(request)

    @staticmethod
    def _spawn(request: LaunchRequest, control: int, kernel: int) -> subprocess.Popen[bytes]:
        with open(request.log, "ab", opener=_private) as log:  # for tracebacks of the guards
            return forks.spawn(
                [python.program(), "-I", "-S", str(PROGRAM), control, kernel],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Without the user's environment, except for the variable that this Python may need to find libpython.
                env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
                cwd="/",
                start_new_session=True,
            )

    def close(self) -> None:
        """Close the connection, and reap the outer guard."""
        super().close()
        try:
            self._process.wait(EXIT_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_LIMIT)

    def kill(self) -> None:
        """See `Guards`."""
        self._process.kill()


class AttachedGuards(Guards):
    """The guard pair of a server whose kernel is gone. This process becomes the server's kernel.

    Args:
        folder: the server's private folder.
        outer: the outer guard, from the server's record.
        expected_spec: the spec that the server must have been started with, packed; None accepts any spec.

    Attributes:
        handover: the data that the first kernel left for its successor (`LaunchRequest.handover`).

    Raises:
        OSError: the guards do not answer.
        AttachRefusedError: the server's kernel lives, or the server has another spec, or its record is wrong.
    """

    def __init__(self, folder: Path, outer: Identity, expected_spec: dict[str, object] | None = None) -> None:
        super().__init__(control_client.connect(folder), str(folder))
        self.pid = outer.pid
        self._outer = outer
        try:
            self._check_outer()
            self._watch(pidfd.open_pidfd(outer))
            self._socket.settimeout(control_client.ANSWER_LIMIT)
            self._send(Attach(expected_spec))
            self.handover = self._receive_answer()
            self._socket.settimeout(None)
        except BaseException:
            super().close()
            raise

    def _check_outer(self) -> None:
        """Check that the outer guard of the record is the parent of the inner guard, which listens on the socket.

        A record can be edited, and `kill` must not kill another process.

        Raises:
            AttachRefusedError: it is another process.
        """
        answer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # unix(7)
        inner = processes.read(struct.unpack("3i", answer)[0])
        if inner is None or inner.parent != self.pid or not processes.is_alive(self._outer):
            raise AttachRefusedError(f"its record is wrong: pid {self.pid} is none of its guards")

    def _receive_answer(self) -> dict[str, object]:
        while True:
            messages = self.receive()
            if messages is None:
                raise AttachRefusedError("it has just ended")
            self.put_back(messages)
            for message in messages:
                if isinstance(message, Refused):
                    raise AttachRefusedError(message.text)
                if isinstance(message, Attached):
                    return message.handover

    def close(self) -> None:
        """Close the connection, and kill the outer guard if it does not end."""
        super().close()
        if pidfd.wait_for_all({self._outer}, EXIT_LIMIT):
            self.kill()

    def kill(self) -> None:
        """See `Guards`."""
        pidfd.send(self._outer, signal.SIGKILL)


class AttachRefusedError(Exception):
    """The guards refused to hand the server over; the message says why."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
