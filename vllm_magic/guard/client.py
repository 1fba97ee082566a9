"""The kernel's end of a guard pair: starts it or takes it over, tells it to stop, hears what it says."""

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
from vllm_magic.guard.protocol import Attach, Attached, Decoder, Note, Order, Refused, Stop, encode
from vllm_magic.guard.record import BrokenRecordError
from vllm_magic.linux import forks, pidfd, pidfd_calls, processes, python
from vllm_magic.linux.processes import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm_magic.guard.protocol import Message

SEND_LIMIT = 10  # seconds for a guard to take what it is sent
INNER_LOOK = 0.1  # seconds between looks at whether the inner guard lives, once the outer one does not
EXIT_LIMIT = 10.0  # seconds for a guard that has closed its socket to be gone
PROGRAM = Path(__file__).with_name("run.py")


class Guards(ABC):
    """A guard pair at the other end of a connection. Sending is safe from any thread; receiving belongs to one.

    Their end is told by the connection's, or, where somebody else has a copy of their end of it, by the outer guard's
    pidfd and by the lock that both hold.

    Args:
        connection: to them.
        folder: the server's private folder.

    Attributes:
        pid: of the outer guard.
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
        self._send_lock = threading.Lock()
        self._waiting: list[Message] = []
        self._decoder = Decoder()
        self._folder = folder
        self._outer_end: int | None = None
        self._socket = connection
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_LIMIT, 0))

    def stop(self, grace: float, patience: float) -> None:
        """Ask for the release; a second time: hurry. Returns at once. Times in seconds."""
        self._send(Stop(grace, patience))

    def order(self, order: Order) -> None:
        """Tell a spare what it becomes; the answer is `Started`, or `Refused` and its end."""
        self._send(order)

    def note(self) -> None:
        """Have the guard know that the server is ready, and remember the shared memory that it maps now."""
        self._send(Note())

    def fileno(self) -> int:
        """Readable when `receive` has something to say."""
        return self._events.fileno()

    def waiting(self) -> list[Message]:
        """Return the messages that were received already, and put back."""
        messages, self._waiting = self._waiting, []
        return messages

    def put_back(self, messages: Iterable[Message]) -> None:
        """Keep messages that were received for whoever asks for those that are `waiting`."""
        self._waiting += messages

    def receive(self) -> list[Message] | None:
        """What the guards said, waiting for it, or nothing yet; None once both are gone."""
        ready = {fd for fd, _ in self._events.poll(self._socket.gettimeout())}
        if not ready:
            raise TimeoutError
        if self._socket.fileno() not in ready:  # the outer guard has ended, and the connection has not
            pause = INNER_LOOK if self._inner_lives() else 0.0
            if not pidfd.readable([self._socket.fileno()], pause):
                return [] if pause else None
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:  # killed with words of ours unread
            data = b""
        return self._decoder.feed(data) if data else None

    def _inner_lives(self) -> bool:
        """Whether the inner guard lives, as far as can be told without the outer one."""
        try:
            return record.is_locked(self._folder)
        except FileNotFoundError:  # they have cleared the folder, or never got to it
            return False
        except OSError:  # a file system without locks
            with contextlib.suppress(OSError, BrokenRecordError):
                inner = record.read(self._folder).inner
                return inner is None or processes.is_alive(Identity(*inner))
            return False

    def _watch(self, outer: int | None) -> None:
        """Hear of the outer guard's end by this pidfd, which is closed with the connection.

        Raises:
            OSError: it has ended already.
        """
        if outer is None:
            raise ConnectionResetError(errno.ECONNRESET, "its guard has just ended")
        self._outer_end = outer
        self._events.register(outer, select.EPOLLIN)

    def close(self) -> None:
        """Let go of the guards, once `receive` has said that both are gone."""
        self.hang_up()
        self._events.close()

    def hang_up(self) -> None:
        """Let go of the guards while they live: for them this kernel has ended."""
        with self._send_lock:
            if self._outer_end is not None:  # nobody wants to hear of it any more
                with contextlib.suppress(OSError, ValueError):
                    self._events.unregister(self._outer_end)
                os.close(self._outer_end)
                self._outer_end = None
            self._socket.close()

    @abstractmethod
    def kill(self) -> None:
        """Kill the outer guard, which makes the inner one release at once: for guards that do not answer."""

    def _send(self, message: Order | Stop | Note | Attach) -> None:
        with self._send_lock:
            try:
                self._socket.sendall(encode(message))
            except BlockingIOError:  # a guard that hangs: half a message would be of no use to it
                self.kill()
            except OSError:
                # Both guards are gone, which `receive` says too; whoever waits there deals with it.
                return


class GuardPair(Guards):
    """A guard pair that this process starts.

    Args:
        order: what the guards are to run.

    Raises:
        OSError: the guard could not be started (no process, no descriptor, no memory).
    """

    def __init__(self, order: Order) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours = forks.beyond_streams(ours)
            forks.keep_out(theirs)
            super().__init__(ours, order.folder)
            try:
                kernel = pidfd_calls.open_pid(os.getpid())
                try:
                    self._process = self._spawn(order, theirs.fileno(), kernel)
                finally:
                    os.close(kernel)
                self._watch(pidfd_calls.open_pid(self._process.pid))
            except BaseException:
                super().close()
                raise
        self.pid = self._process.pid
        self._send(order)

    @staticmethod
    def _spawn(order: Order, control: int, kernel: int) -> subprocess.Popen[bytes]:
        with open(order.log, "ab", opener=_private) as log:  # a guard's own fault is told in the log
            return forks.spawn(
                [python.program(), "-I", "-S", str(PROGRAM), control, kernel],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Nothing of the user's, but what this Python itself may need to find its libpython.
                env={name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
                cwd="/",
                start_new_session=True,
            )

    def close(self) -> None:
        """Let go of the guards, and collect the outer one."""
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
    """The guard pair of a server whose kernel is gone; this process takes its place.

    Args:
        folder: the server's private folder.
        outer: the outer guard, as the record names it.
        only: refuse a server whose luggage has another "spec"; None takes it as it is.

    Attributes:
        luggage: what the first kernel left for this one.

    Raises:
        OSError: nobody answers there.
        AttachRefusedError: the server belongs to a kernel that lives, or has another spec, or its record is wrong.
    """

    def __init__(self, folder: Path, outer: Identity, only: dict[str, object] | None = None) -> None:
        super().__init__(control_client.connect(folder), str(folder))
        self.pid = outer.pid
        self._outer = outer
        try:
            self._check_outer()
            self._watch(pidfd.open_pidfd(outer))
            self._socket.settimeout(control_client.ANSWER_LIMIT)
            self._send(Attach(only))
            self.luggage = self._hear_answer()
            self._socket.settimeout(None)
        except BaseException:
            super().close()
            raise

    def _check_outer(self) -> None:
        """The outer guard is the parent of the inner one, who listens: a record can be edited, and `kill` kills."""
        answer = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)  # unix(7)
        inner = processes.read(struct.unpack("3i", answer)[0])
        if inner is None or inner.parent != self.pid or not processes.is_alive(self._outer):
            raise AttachRefusedError(f"its record is wrong: pid {self.pid} is none of its guards")

    def _hear_answer(self) -> dict[str, object]:
        while True:
            messages = self.receive()
            if messages is None:
                raise AttachRefusedError("it has just ended")
            self.put_back(messages)
            for message in messages:
                if isinstance(message, Refused):
                    raise AttachRefusedError(message.text)
                if isinstance(message, Attached):
                    return message.luggage

    def close(self) -> None:
        """Let go of the guards, and see to it that the outer one is gone."""
        super().close()
        if pidfd.wait_for_all({self._outer}, EXIT_LIMIT):
            self.kill()

    def kill(self) -> None:
        """See `Guards`."""
        pidfd.send(self._outer, signal.SIGKILL)


class AttachRefusedError(Exception):
    """The guard did not let the server go; the message says why."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
